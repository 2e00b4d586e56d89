"""An accelerator that is not there: what runs on it computes shapes and devices only, and mistakes of device raise.

PyTorch's FakeTensorMode does that for tensors of the device ``lazy:0`` (of ``cuda`` it needs a driver). Here only
tensors of that device are fake: what the CPU computes on its own (labels, random numbers, layouts) is computed for
real, and what it copies from the device is random numbers from then on. A second mode raises what FakeTensorMode lets
pass and an accelerator would not, and notes every read and every copy that makes the CPU wait for the accelerator.

With ``FEDINVERSE_TEST_DEVICE=cuda:0`` the same tests run on an accelerator that is there: nothing is pretended then,
and no wait is noted.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

import attacker.acceleration
import attacker.priors.prior
import fedinverse.seeds
from fedinverse.progress import silent

REAL = os.environ.get("FEDINVERSE_TEST_DEVICE")
DEVICE = torch.device(REAL or "lazy:0")
ROOT = Path(__file__).parent.parent
_READS = {"item", "tolist", "__float__", "__int__", "__bool__", "__index__", "numpy"}
# What a value that was never computed is read as: such that checks pass and loops go on.
_VALUES = {"item": 1.0, "tolist": [], "__float__": 1.0, "__int__": 1, "__index__": 1, "__bool__": True}


class _Pretend(FakeTensorMode):
    """Fakes what touches the device, computes the rest."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs or {}))
        if any(isinstance(leaf, FakeTensor) or _is_device(leaf) for leaf in leaves):
            return super().__torch_dispatch__(func, types, args, kwargs)
        return func(*args, **(kwargs or {}))


def _is_device(value: Any) -> bool:
    return isinstance(value, torch.device) and value.type == DEVICE.type


class Guard(TorchFunctionMode):
    """Raises as an accelerator would; ``syncs`` counts the places (file, function) that waited for it."""

    def __init__(self) -> None:
        super().__init__()
        self.syncs: dict[tuple[str, str], int] = {}
        self._numbers = torch.Generator().manual_seed(0)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", str(func))
        first = args[0] if args and isinstance(args[0], Tensor) else None
        drawn = kwargs.get("generator")
        place = torch.device(kwargs.get("device") or (first.device if first is not None else "cpu"))
        if isinstance(drawn, torch.Generator):
            if place.type != getattr(drawn, "place", drawn.device).type:
                raise RuntimeError(f"{name}: a generator of another device than {place}")
            if place.type != "cpu":
                kwargs = {key: value for key, value in kwargs.items() if key != "generator"}
        if first is not None and first.device.type == "cpu" and name in ("__getitem__", "__setitem__", "index_select"):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(each, Tensor) and each.dim() and each.device.type != "cpu" for each in index):
                raise RuntimeError("indices should be on the CPU, where the indexed tensor is")
        if name == "__getitem__" and isinstance(first, FakeTensor) and _is_mask(args[1]):
            self._note()  # how many are chosen is read from the device
            return first.flatten()
        if name == "__setitem__" and _is_mask(args[1]) and isinstance(args[2], Tensor) and args[2].dim():
            self._note()  # likewise
        if name in _READS and first is not None and isinstance(first, FakeTensor):
            if first.device.type != "cpu":
                self._note()
            if name == "numpy":
                raise TypeError("a tensor of the device cannot become an array; copy it to the CPU first")
            return _VALUES[name]
        result = func(*args, **kwargs)
        if _is_there(first) and isinstance(result, Tensor) and result.device.type == "cpu":
            self._note()
            return self._some_values(result)
        return result

    def _some_values(self, copied: Tensor) -> Tensor:
        """Return numbers in the place of those that the device would have computed."""
        if not copied.dtype.is_floating_point:
            return torch.zeros(copied.shape, dtype=copied.dtype)
        return torch.rand(copied.shape, generator=self._numbers, dtype=copied.dtype)

    def _note(self) -> None:
        frame = sys._getframe(1)
        # A comprehension has a frame of its own until Python 3.11 only: it is noted as the function that it stands in.
        while frame is not None and (not _in_project(frame.f_code.co_filename) or frame.f_code.co_name[0] == "<"):
            frame = frame.f_back  # type: ignore[assignment]
        if frame is None:
            return
        where = (str(Path(frame.f_code.co_filename).relative_to(ROOT)), frame.f_code.co_name)
        self.syncs[where] = self.syncs.get(where, 0) + 1


def _is_there(value: Any) -> bool:
    return isinstance(value, FakeTensor) and value.device.type == DEVICE.type


def _is_mask(index: Any) -> bool:
    return _is_there(index) and index.dtype == torch.bool


def _in_project(file: str) -> bool:
    return file.startswith(str(ROOT)) and not file.startswith(str(ROOT / "tests")) and ".venv" not in file


@contextlib.contextmanager
def pretended() -> Iterator[Guard]:
    """Run a block in which tensors can be sent to ``DEVICE``."""
    if REAL:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(attacker.acceleration, "AGREE", -1.0)  # the gradients of untrained networks bend
            yield Guard()
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeTensor, "__deepcopy__", _copied, raising=False)
        patch.setattr(nn.Parameter, "__deepcopy__", _copied)
        patch.setattr(nn.Module, "_apply", _applied)
        patch.setattr(torch, "autocast", _NoAutocast)
        patch.setattr(torch, "Generator", _Generator)
        # The mode does not see what happens in inference mode.
        patch.setattr(torch.inference_mode, "__enter__", _enter)
        patch.setattr(torch.inference_mode, "__exit__", _exit)
        # Nor what other threads do.
        patch.setattr(ThreadPoolExecutor, "submit", _at_once)
        # The device has no random numbers of its own, and what was never computed cannot be stored.
        seeded, cached = fedinverse.seeds.seeded, attacker.priors.prior.cached
        for module in list(sys.modules.values()):
            if getattr(module, "seeded", None) is seeded:
                patch.setattr(module, "seeded", lambda seed, device="cpu": seeded(seed))
            if getattr(module, "cached", None) is cached:
                patch.setattr(module, "cached", _trained)
        guard = Guard()
        with _Pretend(allow_non_fake_inputs=True), guard:
            yield guard


def _trained(name: str, key: str, networks: nn.ModuleDict, train: Any, progress: Any = silent) -> dict[str, str]:
    about: dict[str, str] = train(progress)
    return about


class _NoAutocast(contextlib.nullcontext[None]):
    """Autocast is of known devices only; which one it is asked for is checked."""

    def __init__(self, device_type: str, dtype: torch.dtype | None = None, enabled: bool = True) -> None:
        assert device_type == DEVICE.type or not enabled
        super().__init__()


class _Generator(torch.Generator):
    """A generator of the device, as far as anybody asks; its numbers are never computed."""

    def __new__(cls, device: torch.device | str = "cpu") -> Any:
        instance = super().__new__(cls)
        instance.place = torch.device(device)
        return instance


def _enter(self: Any) -> None:
    self.instead = torch.no_grad()
    self.instead.__enter__()


def _exit(self: Any, *raised: Any) -> None:
    self.instead.__exit__(*raised)


def _at_once(self: ThreadPoolExecutor, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
    result: Future[Any] = Future()
    result.set_result(work(*arguments))
    return result


def _copied(tensor: Any, memo: dict[int, Any]) -> Any:
    """Copy a fake tensor or parameter, which ``copy.deepcopy`` cannot."""
    if id(tensor) not in memo:
        copied = tensor.detach().clone()
        memo[id(tensor)] = nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied
    return memo[id(tensor)]


def _applied(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """Move a module by new parameters: the data of real ones cannot become fake."""
    for child in module.children() if recurse else ():
        _applied(child, change)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            module._parameters[name] = nn.Parameter(change(parameter.detach()), parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = change(buffer)
    return module
