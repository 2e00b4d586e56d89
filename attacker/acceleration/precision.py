"""The arithmetic of an inversion's gradient steps: bf16 or TF32 only where a check on the very target passes.

The gradients of most networks survive bf16 (docs/attacks.md has the measured cosines), but nothing promises it of the
next one. So they are compared with those of fp32, computed first and without TF32, before every inversion
(``passes``), and what does not agree is not used. Only steps that need a gradient are lowered: what is kept and scored
is computed in fp32, and so are priors.

| ``precision`` | |
|---|---|
| ``fp32`` | exact; on CUDA without TF32, which PyTorch otherwise takes for convolutions |
| ``tf32``, ``bf16`` | as named; refused where the check fails |
| ``auto`` | the fastest that this device has in hardware and that passes the check |
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from attacker.acceleration.passes import Steps, agreement, gradients, with_steps
from attacker.acceleration.switches import tf32
from fedinverse.errors import ConfigError
from fedinverse.models import Features

Precision = Literal["fp32", "tf32", "bf16", "auto"]
M = TypeVar("M", bound=nn.Module)

AGREE = 0.99  # least median cosine between a lowered gradient and the fp32 one


@contextmanager
def in_precision(wanted: Precision, exact: Steps, labels: Tensor, identity: str) -> Iterator[Steps]:
    """Yield the steps in ``wanted`` for the time of a block; ``Steps.arithmetic`` says what was taken.

    Args:
        wanted: see the module's table.
        exact: target and prior as they are.
        labels: int64 [N], classes to be inverted.
        identity: the loss whose gradients are compared.

    Raises:
        ConfigError: ``wanted`` is not to be had on the target's device, or fails the check.
    """
    device = exact.target.device
    candidates = _native(device) if wanted == "auto" else [] if wanted == "fp32" else [wanted]
    if "tf32" in candidates and device.type == "cpu":
        raise ConfigError("precision 'tf32' is a CUDA device's; on a CPU use fp32, bf16 or auto")
    for precision in candidates:
        lowered = _lowered(precision, exact)
        agreed = agreement_of(precision, exact, labels, identity)
        if agreed >= AGREE:
            with _arithmetic(precision, device):
                yield lowered
            return
        if wanted != "auto":
            raise ConfigError(
                f"precision '{wanted}' bends this target's gradients: median cosine to fp32 {agreed:.3f}, "
                f"{AGREE} is needed; use fp32, or auto, which decides for every target"
            )
    yield exact


def agreement_of(precision: Precision, exact: Steps, labels: Tensor, identity: str) -> float:
    """Return how well gradients in ``precision`` agree with those of exact fp32: ``passes.agreement``."""
    device = exact.target.device
    with tf32(device, on=False):
        reference = gradients(exact, labels, identity)
    with _arithmetic(precision, device):
        return agreement(reference, gradients(_lowered(precision, exact), labels, identity))


def _arithmetic(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    return tf32(device, on=True) if precision == "tf32" else nullcontext()


def _lowered(precision: Precision, exact: Steps) -> Steps:
    kind = exact.target.device.type
    return exact.changed(lambda network: network if precision == "tf32" else in_bf16(network, kind), precision)


def in_bf16(network: M, device: str) -> M:
    """Return ``network``, its weights shared, computing in bf16 wherever a gradient is wanted; it returns fp32."""
    return with_steps(network, lambda call: _autocast(call, device))


def _autocast(call: Callable[..., Any], device: str) -> Callable[..., Any]:
    def lowered(*arguments: Any) -> Any:
        with torch.autocast(device, torch.bfloat16):
            result = call(*arguments)
        if isinstance(result, Features):
            return Features(result.taps, result.penultimate.float(), result.logits.float())
        return result.float()

    return lowered


def _native(device: torch.device) -> list[Precision]:
    """Return what the device has in hardware besides fp32, fastest first."""
    if device.type == "cuda":
        return ["bf16", "tf32"] if torch.cuda.get_device_capability(device) >= (8, 0) else []
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if device.type == "cpu" and cpuinfo.exists() else ""
    return ["bf16"] if "avx512_bf16" in flags or "amx_bf16" in flags else []
