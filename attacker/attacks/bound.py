"""When a class's variational bound has stopped falling, and what its posterior was then."""

from collections.abc import Sequence

import torch
from torch import Tensor

from attacker.attacks.posteriors import Posterior

WINDOW = 50  # steps over which a bound is averaged before it is judged


class Bound:
    """Watches every class's bound; keeps the posterior of a class as it was when the bound stopped falling.

    Classes go on being fitted with the others, but what they become after their own stop is dropped: whether a class
    stops does not depend on the others.
    """

    def __init__(self, q: Posterior, classes: int, patience: int) -> None:
        self._parameters = list(q.parameters())
        self._kept = [parameter.detach().clone() for parameter in self._parameters] if patience else []
        device = self._parameters[0].device
        self._sum = torch.zeros(classes, device=device)
        self._best = torch.full((classes,), torch.inf, device=device)
        self._waited = torch.zeros(classes, dtype=torch.int64, device=device)
        self._stopped = torch.zeros(classes, dtype=torch.bool, device=device)
        self._patience, self._steps = patience, 0

    def stalled(self, bound: Tensor) -> bool:
        """Take the bounds [C] of a step; return whether every class has stopped (asked once a window)."""
        self._sum += bound
        self._steps += 1
        if self._steps % WINDOW:
            return False
        mean = self._sum / WINDOW
        better = mean < self._best
        self._best = torch.where(better, mean, self._best)
        self._waited = torch.where(better, 0, self._waited + 1)
        now = (self._waited >= self._patience) & ~self._stopped
        self._keep(now, self._kept, self._parameters)
        self._stopped |= now
        self._sum.zero_()
        return bool(self._stopped.all())

    def restore(self) -> None:
        """Put every stopped class back to where it stopped."""
        self._keep(self._stopped, self._parameters, self._kept)

    @staticmethod
    @torch.no_grad()
    def _keep(which: Tensor, into: Sequence[Tensor], source: Sequence[Tensor]) -> None:
        for place, value in zip(into, source, strict=False):
            mask = which.view(-1, *[1] * (value.dim() - 1))
            place.copy_(torch.where(mask, value, place))
