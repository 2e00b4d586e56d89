"""Coverage and false leaks of the verdict's statistics, on simulated score tables whose truth is known.

    python benchmarks/coverage.py [--tables 1000] [--leak 0.7 0.15] [--out FILE.md]

Every table holds the attack (A) and the control without the victim (B2), `RESTARTS` reconstructions per class:

    p(arm, seed, class) = mean + run luck (one draw per model) + class effect (the same in all seeds) + noise (one draw
                          per seed and class, normal or skewed), cut to [0, 1]
    score               = Binomial(RESTARTS, p) / RESTARTS

Coverage is counted where there is a leak (means .7 and .15, or as `--leak` says), against the expectation over seeds
for the table's classes. False leaks are counted where there is none (both means .3, the same class effects). Both go
through the very functions that judge a run (`auditor.statistics`); of one run both with
the deviation between runs that the configuration assumes by default and with the one measured on five control worlds.
"""

import argparse
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from auditor.settings import Primary
from auditor.statistics import Cells, Estimate, between_runs, difference

Floats = NDArray[np.float64]
RESTARTS = 10
NOISE, COMMON, LUCK = 0.2, 0.2, 0.15
LEAK, NO_LEAK = (0.7, 0.15), (0.3, 0.3)
CLASSES, SEEDS, WORLDS = (5, 10, 20, 100), (1, 3, 5, 10), 5
COLUMNS = [(1, 1), (1, WORLDS), *((seeds, 1) for seeds in SEEDS[1:])]
GRID = np.linspace(-1, 2, 601)


@dataclass(frozen=True)
class World:
    """How scores come about: deviations of the run's luck and of the class effects, and whether noise is skewed."""

    luck: float
    common: float
    skewed: bool

    def noise(self, random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """Return noise of mean 0 and deviation ``NOISE``."""
        if self.skewed:
            return NOISE * (random.exponential(size=shape) - 1)
        return NOISE * random.standard_normal(shape)

    def expectation(self) -> Callable[[Floats], Floats]:
        """Return the function from a class's mean before cutting to its expected score."""
        random = np.random.default_rng(1)
        draws = self.noise(random, (100_000,)) + self.luck * random.standard_normal(100_000)
        expected = np.array([np.clip(mean + draws, 0, 1).mean() for mean in GRID])
        return lambda means: np.interp(means, GRID, expected)

    def scores(self, random: np.random.Generator, means: Floats, seeds: int) -> Cells:
        """Return the cells of one arm whose classes have ``means``."""
        luck = self.luck * random.standard_normal((seeds, 1))
        share = np.clip(means + luck + self.noise(random, (seeds, len(means))), 0, 1)
        values = random.binomial(RESTARTS, share) / RESTARTS
        return Cells(values, np.full(values.shape, RESTARTS), tuple(range(seeds)), tuple(range(len(means))))


def judged(
    world: World, means: tuple[Floats, Floats], seeds: int, worlds: int, random: np.random.Generator
) -> Estimate:
    """Return the leakage of one simulated table."""
    attack = world.scores(random, means[0], seeds)
    controls = {str(number): world.scores(random, means[1], seeds) for number in range(worlds)}
    values = np.mean([each.values for each in controls.values()], 0)
    control = Cells(values, np.full(values.shape, worlds * RESTARTS), attack.seeds, attack.labels)
    between = between_runs(controls, Primary().between_runs)
    return difference(attack, control, between.error(1 + 1 / worlds))


def rates(
    world: World, classes: int, seeds: int, worlds: int, tables: int, leak: tuple[float, float] = LEAK
) -> tuple[float, float]:
    """Return (coverage, false leaks) as shares of ``tables`` simulated ones each."""
    random = np.random.default_rng([classes, seeds, worlds, int(world.skewed), int(100 * world.luck)])
    expected, covered, false = world.expectation(), 0, 0
    for _ in range(tables):
        effects = world.common * random.standard_normal(classes)
        leaky = leak[0] + effects, np.full(classes, leak[1])
        truth = float((expected(leaky[0]) - expected(leaky[1])).mean())
        estimate = judged(world, leaky, seeds, worlds, random)
        covered += estimate.low <= truth <= estimate.high
        none = NO_LEAK[0] + effects, NO_LEAK[1] + effects
        false += judged(world, none, seeds, worlds, random).above_zero
    return covered / tables, false / tables


def table(tables: int, leak: tuple[float, float]) -> str:
    """Return the Markdown table."""
    header = ["run luck", "class effects", "noise", "classes"]
    header += [
        f"{seeds} seed{'s' * (seeds > 1)}" + f", {worlds} control worlds" * (worlds > 1) for seeds, worlds in COLUMNS
    ]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * 4 + "---:|" * len(COLUMNS)]
    for luck, common, skewed, classes in itertools.product((0, LUCK), (0, COMMON), (False, True), CLASSES):
        cells = []
        for seeds, worlds in COLUMNS:
            coverage, false = rates(World(luck, common, skewed), classes, seeds, worlds, tables, leak)
            cells.append(f"{100 * coverage:.1f} / {100 * false:.1f}")
        row = [f"{luck:g}", f"{common:g}", "skewed" if skewed else "normal", str(classes), *cells]
        lines.append("| " + " | ".join(row) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Simulate, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=1000, help="simulated tables per cell, twice")
    parser.add_argument(
        "--leak", type=float, nargs=2, default=LEAK, metavar=("A", "B2"), help="means of attack and control, in [0, 1]"
    )
    parser.add_argument("--out", type=Path, help="file for the Markdown table")
    arguments = parser.parse_args()
    text = table(arguments.tables, tuple(arguments.leak))
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
