"""Timing of variants side by side: each in a process of its own, turn and turn about, CPU time, medians."""

import argparse
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.nn.functional as F

from fedinverse.machine import keep_freed_memory

Turn = Callable[[], list[float]]
"""Runs a few steps; returns the CPU seconds of each."""


def asked(description: str | None, sizes: Iterable[int]) -> argparse.Namespace:
    """Return what the command line of a benchmark over image sizes asks for; one thread is used from here on."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[32, 64], choices=list(sizes))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--publish", action="store_true", help="put the table into docs/attacks.md")
    torch.set_num_threads(1)
    return parser.parse_args()


class Ticks:
    """A ``fedinverse.progress.Progress`` that notes the CPU time of every step of the work called ``what``."""

    def __init__(self, what: str) -> None:
        self._what, self._times = what, [time.process_time()]

    def __call__(self, what: str, done: int, total: int) -> None:
        """Note the end of step ``done``; the first starts the clock, so that preparations do not count."""
        if what == self._what:
            self._times.append(time.process_time())

    @property
    def steps(self) -> list[float]:
        """CPU seconds of every step after the first."""
        if len(self._times) < 3:
            raise ValueError(f"no two steps of '{self._what}' were told of: does the work call itself otherwise now?")
        times = self._times[1:]
        return [after - before for before, after in itertools.pairwise(times)]


class Apart:
    """A variant in a process of its own with one thread, since what is set for a process cannot be set for a variant.

    ``make``, called there once, returns the variant's turn; it must be importable. With ``ours`` the process keeps
    freed memory, as our processes do and a plain script does not.
    """

    def __init__(self, make: Callable[[], Turn], *, ours: bool) -> None:
        spawned = multiprocessing.get_context("spawn")
        self._here, there = spawned.Pipe()
        self._process = spawned.Process(target=_serve, args=(there, make, ours), daemon=True)
        self._process.start()

    def __enter__(self) -> Turn:
        return self._turn

    def __exit__(self, *error: object) -> None:
        self._process.kill()

    def _turn(self) -> list[float]:
        self._here.send("turn")
        taken: list[float] = self._here.recv()
        return taken


def _serve(there: Connection, make: Callable[[], Turn], ours: bool) -> None:
    torch.set_num_threads(1)
    if ours:
        keep_freed_memory()
    turn = make()
    while there.recv():
        there.send(turn())


def medians_apart(
    plain: Mapping[str, Callable[[], Turn]], ours: Mapping[str, Callable[[], Turn]], turns: int
) -> dict[str, float]:
    """Return ``medians`` of variants that each run ``Apart``, the ``plain`` ones and ``ours``."""
    with ExitStack() as stack:
        variants = {name: stack.enter_context(Apart(make, ours=False)) for name, make in plain.items()}
        variants |= {name: stack.enter_context(Apart(make, ours=True)) for name, make in ours.items()}
        return medians(variants, turns)


def medians(variants: Mapping[str, Turn], turns: int) -> dict[str, float]:
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
