"""Random numbers of an inversion: every reconstruction draws from a stream of its own.

The stream is named by class and restart, so what one reconstruction draws does not depend on which others share its
batch, on their order, or on where a memory budget cuts the batch. What is drawn once for all of them (candidates to
start from, the permutations of a flow) has a stream of its own label, so that one switch never shifts another's
numbers. Numbers are drawn on the CPU: an attack starts the same on every device.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fedinverse.machine import sent
from fedinverse.seeds import derive

_AHEAD = 2048  # numbers drawn at once per stream: few calls, and few copies to an accelerator


def occurrences(labels: Tensor) -> Tensor:
    """Return for each entry of ``labels`` [N] how often its class occurred before it, int64 [N]: its restart."""
    seen: dict[int, int] = {}
    restarts = []
    for label in labels.tolist():
        restarts.append(seen.get(label, 0))
        seen[label] = restarts[-1] + 1
    return torch.tensor(restarts, dtype=torch.int64)


class Streams:
    """One stream per reconstruction.

    Args:
        generators: one CPU generator each.
    """

    def __init__(self, generators: list[torch.Generator]) -> None:
        self._generators = generators

    @classmethod
    def of_labels(cls, labels: Tensor, seed: int) -> "Streams":
        """Name a stream by each label of ``labels`` [N] and its restart, under the ``seed`` of the inversion."""
        named = zip(labels.tolist(), occurrences(labels).tolist(), strict=True)
        return cls([torch.Generator().manual_seed(derive(seed, label, restart)) for label, restart in named])

    def __len__(self) -> int:
        return len(self._generators)

    def rows(self, rows: Tensor) -> "Streams":
        """Return the streams of ``rows``; they go on where they are."""
        return Streams([self._generators[row] for row in rows.tolist()])

    def normal(self, *shape: int) -> Tensor:
        """Return N(0, 1) numbers [N, *shape] on the CPU."""
        return torch.stack([torch.randn(*shape, generator=stream) for stream in self._generators])

    def restarts(self, count: int, *shape: int) -> Tensor:
        """Return N(0, 1) numbers [N, count, *shape]; the first restarts are the same whatever ``count``."""
        return torch.stack([self.normal(*shape) for _ in range(count)], 1)

    def uniform(self, *shape: int) -> Tensor:
        """Return uniform numbers in [0, 1), [N, *shape], on the CPU."""
        return torch.stack([torch.rand(*shape, generator=stream) for stream in self._generators])


class Supply:
    """Fresh numbers for every step of a loop, [N, *shape] on ``device``, drawn many steps ahead."""

    def __init__(self, draw: Callable[..., Tensor], shape: tuple[int, ...], device: torch.device) -> None:
        self._draw, self._shape, self._device = draw, shape, device
        self._steps = max(1, _AHEAD // max(1, math.prod(shape)))
        self._ready: list[Tensor] = []

    def next(self) -> Tensor:
        """Return the numbers of the next step."""
        if not self._ready:
            drawn = self._draw(self._steps, *self._shape)
            self._ready = list(sent(drawn.transpose(0, 1).contiguous(), self._device).unbind(0))[::-1]
        return self._ready.pop()
