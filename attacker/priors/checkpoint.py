"""A training that survives a kill: once a minute everything it needs to go on is written beside the prior it makes.

A training that is started again goes on from there and ends with the same weights, bit for bit: networks, running
average, optimisers and the random stream are kept whole.
"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedinverse.progress import Progress
from fedinverse.storage import into_module, load_weights, save_weights, to_weights

EVERY = 60.0  # seconds between two checkpoints; shorter trainings write none


class Checkpoint:
    """Where one training stands.

    Args:
        path: its file.
        random: the CPU stream that every step draws from.
    """

    def __init__(self, path: Path, random: torch.Generator) -> None:
        self._path, self._random = path, random
        self._before = 0.0  # seconds that runs killed earlier had spent up to the checkpoint
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall time of the training, that before a kill included."""
        return self._before + time.perf_counter() - self._start

    def steps(
        self,
        total: int,
        what: str,
        progress: Progress,
        networks: Mapping[str, nn.Module],
        optimisers: Mapping[str, torch.optim.Optimizer],
    ) -> Iterator[int]:
        """Yield every step that is still to be done; report each when it is over, and once a minute keep all.

        Args:
            networks: what the steps change, the running average included.
            optimisers: of these networks, by names without a dot.

        Raises:
            IntegrityError: the checkpoint is damaged or belongs to other networks; names the file.
        """
        changed = nn.ModuleDict(dict(networks))
        first = self._restore(changed, optimisers) if self._path.exists() else 0
        if first:
            progress(what, first, total)
        saved = time.monotonic()
        for step in range(first, total):
            yield step
            progress(what, step + 1, total)
            if time.monotonic() - saved >= EVERY and step + 1 < total:
                self._save(step + 1, changed, optimisers)
                saved = time.monotonic()

    def remove(self) -> None:
        """Forget it: what was trained is stored."""
        self._path.unlink(missing_ok=True)

    def _save(self, step: int, networks: nn.Module, optimisers: Mapping[str, torch.optim.Optimizer]) -> None:
        arrays = {f"network.{name}": array for name, array in to_weights(networks).items()}
        for name, optimiser in optimisers.items():
            for number, state in optimiser.state_dict()["state"].items():
                arrays |= {f"{name}.{number}.{key}": _array(value) for key, value in state.items()}
        arrays["random"] = _array(self._random.get_state())
        save_weights(self._path, arrays, {"step": step, "seconds": self.seconds})

    def _restore(self, networks: nn.Module, optimisers: Mapping[str, torch.optim.Optimizer]) -> int:
        arrays, about = load_weights(self._path, finite=False)  # a training that met NaN goes on as it would have
        of_networks = {name: array for name, array in arrays.items() if name.startswith("network.")}
        into_module(networks, {name.removeprefix("network."): a for name, a in of_networks.items()}, str(self._path))
        for name, optimiser in optimisers.items():
            _restore_optimiser(optimiser, {key: a for key, a in arrays.items() if key.startswith(f"{name}.")})
        self._random.set_state(torch.from_numpy(arrays["random"]))
        self._before = float(about["seconds"])
        return int(about["step"])


def _array(value: Tensor) -> NDArray[Any]:
    return np.array(value.detach().cpu().contiguous().numpy())


def _restore_optimiser(optimiser: torch.optim.Optimizer, arrays: Mapping[str, NDArray[Any]]) -> None:
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, array in arrays.items():
        _, number, key = name.split(".")
        value = torch.from_numpy(array)
        like = parameters[int(number)]
        if value.shape == like.shape:  # in the parameter's memory format: the same kernel, the same rounding
            value = torch.empty_like(like, requires_grad=False).copy_(value)
        state.setdefault(int(number), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
