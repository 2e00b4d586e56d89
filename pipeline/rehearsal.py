"""An attack begun and broken off: whatever it refuses it refuses now, and its first steps say how long it will take.

The target is the untrained global model. A prior that would be trained takes a few steps, in a cache of its own.
"""

import time
from contextlib import nullcontext, suppress
from pathlib import Path

from torch import Tensor

from attacker.attacks.attack import Attack
from attacker.inversion import Inversion, invert
from attacker.target import PublicSet, Target
from fedinverse.config import Section
from fedinverse.data.source import cache_at


class _EnoughError(Exception):
    """The attack has begun, and that was to be seen."""


class _Clock:
    """Told of progress; breaks off once a phase that was not shortened has taken ``steps`` steps."""

    def __init__(self, steps: int) -> None:
        self._steps, self.rates = steps, dict[str, tuple[float, int]]()
        self._start: dict[str, tuple[float, int]] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.perf_counter()
        start, before = self._start.setdefault(what, (now, done))
        if done > before:
            self.rates[what] = ((now - start) / (done - before), total)
        if total > self._steps <= done:
            raise _EnoughError


def rehearse(
    attack: Attack, target: Target, public: PublicSet, labels: Tensor, seed: int, scratch: Path, steps: int
) -> dict[str, tuple[float, int]]:
    """Begin ``attack`` on ``target`` and break it off after ``steps`` steps.

    Args:
        target: a model of the right network; what it has learned does not matter.
        labels: int64 [N], the classes to invert, one entry per restart.
        scratch: an empty directory for what it writes.
        steps: of every phase.

    Returns:
        Phase -> (seconds of a step, steps in all), of the phases that took two steps or more.

    Raises:
        ConfigError: whatever the attack cannot do with this target, these images or these classes.
    """
    clock = _Clock(steps)
    begun = type(attack)(shortened(attack.settings, steps))
    cache = nullcontext() if attack.settings.generator else cache_at(scratch)  # an added generator lies in the cache
    with cache, suppress(_EnoughError):
        invert(begun, Inversion(scratch / "inversion"), target, public, labels, seed, clock)
    return clock.rates


def shortened(settings: Section, steps: int) -> Section:
    """Return ``settings`` with at most ``steps`` in every nested ``steps``: a prior's, a student's."""
    changes = {
        name: shortened(value, steps) if isinstance(value, Section) else min(value, steps)
        for name, value in settings
        if isinstance(value, Section) or name == "steps"
    }
    return settings.model_copy(update=changes)
