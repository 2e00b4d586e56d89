"""Timing of variants side by side: CPU time of this process, turn and turn about, medians."""

import itertools
import statistics
import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F


class Ticks:
    """An ``attacker.attack.Progress`` that notes the CPU time of every step of the work called ``what``."""

    def __init__(self, what: str) -> None:
        self._what, self._times = what, [time.process_time()]

    def __call__(self, what: str, done: int, total: int) -> None:
        """Note the end of step ``done``; the first starts the clock, so that preparations do not count."""
        if what == self._what:
            self._times.append(time.process_time())

    @property
    def steps(self) -> list[float]:
        """CPU seconds of every step after the first."""
        times = self._times[1:]
        return [after - before for before, after in itertools.pairwise(times)]


def medians(variants: Mapping[str, Callable[[], list[float]]], turns: int) -> dict[str, float]:
    """Return the median CPU seconds of each variant's steps; a call takes a few of them, the first turn warms up."""
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(turns + 1):
        for name, run in variants.items():
            steps = run()
            if turn:
                taken[name] += steps
    return {name: statistics.median(steps) for name, steps in taken.items()}


def convolution_peak(turns: int = 5) -> float:
    """Return the FLOP/s of an fp32 3x3 convolution of 256 channels on this thread: the yardstick of the goals."""
    images = torch.randn(16, 256, 28, 28).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(256, 256, 3, 3).contiguous(memory_format=torch.channels_last)
    flops = 2 * 16 * 256 * 28 * 28 * 256 * 9

    def one() -> list[float]:
        start = time.process_time()
        F.conv2d(images, kernel, padding=1)
        return [time.process_time() - start]

    return flops / medians({"convolution": one}, turns)["convolution"]
