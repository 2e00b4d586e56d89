"""Uncertainty of scores: federation seeds are the unit of every claim about a federation.

Scores are ``Cells``: one value per seed and victim class. Differences are taken cell by cell: the same seed and class
under two arms, with a defence and without. What an interval claims depends on the number of seeds S:

S >= 2  These classes, over federations. Student's t with S - 1 degrees of freedom on the seeds' means over the classes.
        Every seed enters with the same classes, so what is common to a class in all seeds is no luck of the federation.
S = 1   This run. Student's t with C - 1 degrees of freedom over the classes, to which the deviation between runs is
        added where two models are compared (``BetweenRuns``): one run cannot show by itself how much the next would
        differ. Below ``FEWEST_CLASSES`` classes an exact randomisation test must agree (``sign_flip_p``).

Neither is ever narrower than the binomial noise of the reconstructions. How well the intervals and tests hold their
level is measured by ``benchmarks/coverage.py`` and published in docs/statistics.md.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from auditor.omitted import Omitted

Floats = NDArray[np.float64]
T = TypeVar("T")

LEVEL = 0.95
POWER = 0.8
FEWEST_CLASSES = 20
ONE_RUN = "one run: nothing is said of other federations"
FEW_CLASSES = f"fewer than {FEWEST_CLASSES} classes in one run: an exact randomisation test must agree"
FLOORED = "no more spread than chance gives: the interval is that of the reconstructions' binomial noise"
FEWEST_WORLDS = 2
UNBOUNDED = (-math.inf, math.inf)
ROUNDING = 1e-9
UPPER = (1 + LEVEL) / 2


@dataclass(frozen=True)
class Cells:
    """One value per federation seed and class.

    Attributes:
        values: float64 [S, C], shares in [0, 1]; NaN where that seed has no such class. Every seed has at least one.
        counts: float64 [S, C], reconstructions behind each value.
        seeds: the S seeds.
        labels: the C classes.
    """

    values: Floats
    counts: Floats
    seeds: tuple[int, ...]
    labels: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.seeds), len(self.labels)) or self.values.size == 0:
            raise ValueError(f"cells {self.values.shape} for {len(self.seeds)} seeds and {len(self.labels)} classes")
        if self.counts.shape != self.values.shape:
            raise ValueError(f"cells {self.values.shape} with counts {self.counts.shape}")
        if np.isinf(self.values).any() or np.isnan(self.values).all(1).any():
            raise ValueError("cells hold infinity, or a seed without any class")

    @property
    def mean(self) -> float:
        """The mean over seeds of the mean over classes."""
        return float(np.nanmean(self.values, 1).mean())

    def noise(self) -> float:
        """Return the binomial variance of one seed's mean, as if every reconstruction were an independent trial.

        Two successes and two misses are added (Agresti and Coull 1998), so that 0 of n is not certainty.
        """
        present = np.isfinite(self.values)
        trials = self.counts[present].sum()
        share = (np.clip(self.values[present], 0, 1) @ self.counts[present] + 2) / (trials + 4)
        classes = present.sum() / len(self.seeds)
        return float(share * (1 - share) * (1 / self.counts[present]).mean() / classes)


@dataclass(frozen=True)
class Error:
    """A source of error: its standard deviation, known by ``freedom`` degrees of freedom (infinity: exactly)."""

    deviation: float
    freedom: float = math.inf

    def half_width(self, quantile: float) -> float:
        """Return how far the error reaches at a quantile of Student's t."""
        return float(special.stdtrit(self.freedom, quantile)) * self.deviation


@dataclass(frozen=True)
class BetweenRuns:
    """How much the mean score of one federation differs from that of the next by luck alone.

    Attributes:
        deviation: standard deviation over runs.
        freedom: degrees of freedom it is known by; infinity: it is taken from the configuration.
        worlds: control worlds it was measured on; 1: none to measure it by.
    """

    deviation: float
    freedom: float = math.inf
    worlds: int = 1

    def error(self, runs: float) -> Error:
        """Return the error of a sum in which the squared weights of independent federations add up to ``runs``."""
        return Error(self.deviation * math.sqrt(runs), self.freedom)


def between_runs(controls: Mapping[str, Cells], deviation: float) -> BetweenRuns:
    """Return the deviation between runs: of the control worlds' means, or ``deviation`` where there are too few.

    The worlds' means differ by the luck of their classes too, so a measured deviation is rather too large.
    """
    if len(controls) < FEWEST_WORLDS:
        return BetweenRuns(deviation)
    means = [each.mean for each in aligned(controls).values()]
    return BetweenRuns(statistics.stdev(means), len(means) - 1, len(means))


@dataclass(frozen=True)
class Estimate:
    """A mean, or a difference of means, with its uncertainty.

    Attributes:
        value: mean over seeds of the mean over classes.
        low: lower end of the 95 % interval.
        high: upper end.
        p: two-sided p-value of "it is 0": of the t-test, or the exact test's where that is larger.
        seeds: number of federation seeds S.
        classes: number of classes C.
        errors: what the interval is made of; half-widths add up by squares.
        marks: what a reader must know before believing the interval; empty: nothing.
    """

    value: float
    low: float
    high: float
    p: float
    seeds: int
    classes: int
    errors: tuple[Error, ...]
    marks: tuple[str, ...]

    @property
    def above_zero(self) -> bool:
        """Whether it is shown to lie above 0: the interval does, and a one-sided test at 5 % agrees.

        Five classes of one run cannot do better than 1 / 32 in the exact test: at 2.5 % they could never show
        anything.
        """
        return self.low > 0 and self.p <= 2 * (1 - LEVEL)

    def half_width(self, quantile: float = UPPER) -> float:
        """Return the half-width of the interval whose upper end is that quantile, before it is cut to its bounds."""
        return math.hypot(*(error.half_width(quantile) for error in self.errors))


def unless_omitted(figure: Callable[..., T | Omitted], *values: object) -> T | Omitted:
    """Return ``figure`` of ``values``; the first of them that is omitted; or why ``figure`` cannot be had of them.

    A ``ValueError`` of ``figure`` says why: its values have nothing in common.
    """
    for value in values:
        if isinstance(value, Omitted):
            return value
    try:
        return figure(*values)
    except ValueError as error:
        return Omitted(str(error))


def aligned(arms: Mapping[str, Cells]) -> dict[str, Cells]:
    """Return ``arms`` cut to the seeds they share and to the classes that every one of them holds in all those seeds.

    Raises:
        ValueError: there is no such cell.
    """
    tables = list(arms.values())
    seeds = sorted(set.intersection(*(set(cells.seeds) for cells in tables)))
    labels = sorted(set.intersection(*(set(cells.labels) for cells in tables)))
    cut = {
        name: (np.ix_([each.seeds.index(s) for s in seeds], [each.labels.index(c) for c in labels]), each)
        for name, each in arms.items()
    }
    full = np.stack([np.isfinite(each.values[rows]).all(0) for rows, each in cut.values()]).all(axis=0)
    if not seeds or not full.any():
        raise ValueError(f"{', '.join(arms)} share no seed and class")
    kept = tuple(np.array(labels)[full].tolist())
    return {
        name: Cells(each.values[rows][:, full], each.counts[rows][:, full], tuple(seeds), kept)
        for name, (rows, each) in cut.items()
    }


def estimate(cells: Cells) -> Estimate:
    """Return the mean of ``cells`` with its 95 % interval; of one run, as it is (no deviation between runs)."""
    return combine([cells], [1.0], bounds=(0.0, 1.0))


def lead_over_half(cells: Cells) -> Estimate:
    """Return 2 s - 1 of a share s with its 95 % interval: 0 is one half, which chance gives."""
    lead = combine([cells], [2.0], value=2 * cells.mean - 1, bounds=(-1.0, 1.0))
    if lead.seeds > 1 or lead.classes >= FEWEST_CLASSES:
        return lead
    apart = 2 * cells.values[0][np.isfinite(cells.values[0])] - 1
    return replace(lead, p=max(lead.p, sign_flip_p(apart)), marks=(*lead.marks, FEW_CLASSES))


def difference(first: Cells, second: Cells, between: Error | None = None) -> Estimate:
    """Return the mean of ``first`` - ``second``; see ``contrast``."""
    return contrast([first, second], [1, -1], between)


def contrast(arms: Sequence[Cells], weights: Sequence[int], between: Error | None = None) -> Estimate:
    """Return a sum and difference of arms' means over the cells all of them hold, with its 95 % interval.

    Args:
        arms: shares.
        weights: 1 or -1 for each, as many of one as of the other.
        between: of one run, the error by luck of the federations compared; None: all are of the same model.

    Raises:
        ValueError: they share no cell.
    """
    shared = list(aligned({f"arm {number}": arm for number, arm in enumerate(arms, 1)}).values())
    most = float(weights.count(1))
    estimate = combine(shared, weights, between, bounds=(-most, most))
    if estimate.seeds > 1 or estimate.classes >= FEWEST_CLASSES:
        return estimate
    apart = np.tensordot(weights, np.stack([arm.values[0] for arm in shared]), 1)
    return replace(estimate, p=max(estimate.p, sign_flip_p(apart)), marks=(*estimate.marks, FEW_CLASSES))


def combine(
    arms: Sequence[Cells],
    weights: Sequence[float],
    between: Error | None = None,
    *,
    value: float | None = None,
    bounds: tuple[float, float] = UNBOUNDED,
) -> Estimate:
    """Return a weighted sum of arms' means with its 95 % interval.

    Args:
        arms: as ``aligned`` returns them.
        weights: one per arm; of a function of the means, its derivatives there (delta method).
        between: of one run, the error by luck of the federations in it.
        value: what the interval is laid around; None: the sum.
        bounds: what the figure cannot leave; the interval is cut there.
    """
    cells = sum((weight * arm.values for weight, arm in zip(weights, arms, strict=True)), np.zeros(()))
    seeds, classes = cells.shape
    noise = math.sqrt(sum(weight**2 * arm.noise() for weight, arm in zip(weights, arms, strict=True)) / seeds)
    units = np.nanmean(cells, 1) if seeds > 1 else cells[0][np.isfinite(cells[0])]
    spread = Error(float(units.std(ddof=1)) / math.sqrt(len(units)), len(units) - 1) if len(units) > 1 else Error(0.0)
    floored = spread.half_width(UPPER) < Error(noise).half_width(UPPER)
    errors = [Error(noise) if floored else spread]
    if seeds == 1 and between is not None:
        errors.append(between)
    if value is None:
        value = float(np.nanmean(cells, 1).mean())
    marks = ((ONE_RUN,) if seeds == 1 else ()) + ((FLOORED,) if floored else ())
    estimate = Estimate(value, value, value, 1.0, seeds, classes, tuple(errors), marks)
    half = estimate.half_width()
    return replace(estimate, low=max(value - half, bounds[0]), high=min(value + half, bounds[1]), p=_p(estimate))


def _p(estimate: Estimate) -> float:
    """Return the level at which the interval just reaches 0."""
    if estimate.value == 0:
        return 1.0
    if len(estimate.errors) == 1:
        error = estimate.errors[0]
        return 2 * float(special.stdtr(error.freedom, -abs(estimate.value) / error.deviation))

    def beyond(log_tail: float) -> float:
        return estimate.half_width(1 - math.exp(log_tail)) - abs(estimate.value)

    smallest = math.log(1e-12)
    if beyond(smallest) <= 0:
        return 2e-12
    return 2 * math.exp(float(optimize.brentq(beyond, smallest, math.log(0.5))))


def consistent(first: Cells, second: Cells) -> bool:
    """Return whether ``first`` lies above ``second`` in these runs, whatever the next would be.

    Raises:
        ValueError: they share no cell.
    """
    gap = difference(first, second)
    if gap.seeds > 1 or gap.classes >= FEWEST_CLASSES:
        return gap.above_zero
    both = aligned({"first": first, "second": second})
    return gap.value > 0 and sign_flip_p(both["first"].values[0] - both["second"].values[0]) <= 2 * (1 - LEVEL)


def sign_flip_p(apart: Floats) -> float:
    """Return the exact two-sided p-value of paired differences [C], C < 20: the share of sign changes as extreme.

    If nothing tells the two arms of a class apart, each difference might as well have had the other sign (Fisher 1935).
    Of differences that are all 1, -1 or 0 it is McNemar's exact test.
    """
    sums = np.zeros(1)
    for each in apart:
        sums = np.concatenate([sums + each, sums - each])
    return float((np.abs(sums) >= abs(apart.sum()) - ROUNDING).mean())


class WithInterval(Protocol):
    """A figure and its 95 % interval, low <= value <= high."""

    @property
    def value(self) -> float:
        """The figure."""
        ...

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        ...

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        ...


@dataclass(frozen=True)
class Bounded:
    """A figure with its 95 % interval, low <= value <= high."""

    value: float
    low: float
    high: float


def newcombe(one: WithInterval, other: WithInterval) -> Bounded:
    """Return ``one`` less ``other``, in [-1, 1]: independent shares, Wilson intervals (Newcombe 1998, method 10)."""
    value = one.value - other.value
    below = math.hypot(one.value - one.low, other.high - other.value)
    above = math.hypot(one.high - one.value, other.value - other.low)
    return Bounded(value, value - below, value + above)


def wilson(successes: float, trials: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval (1927) of a share; ``successes`` may be fractional (a sum of shares)."""
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes:g} successes of {trials} trials")
    z2 = float(special.ndtri(UPPER)) ** 2
    share = successes / trials
    centre = share + z2 / (2 * trials)
    half = math.sqrt(z2 * (share * (1 - share) / trials + z2 / (4 * trials**2)))
    low, high = ((centre + sign * half) / (1 + z2 / trials) for sign in (-1, 1))
    return max(0.0, min(low, share)), min(1.0, max(high, share))


def holm(p: Sequence[float]) -> tuple[float, ...]:
    """Return Holm's step-down adjustment (1979) of p-values, in their order: compare each with the level itself."""
    count = len(p)
    adjusted = [0.0] * count
    running = 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda i: p[i])):
        running = max(running, min(1.0, (count - rank) * p[index]))
        adjusted[index] = running
    return tuple(adjusted)


def minimum_detectable_effect(estimate: Estimate, power: float = POWER) -> float:
    """Return the smallest mean difference that would have been shown with probability ``power``.

    The larger of two: the interval's half-width and that of the quantile ``power`` (Bloom 1995); and what ``unseen``
    says of as many cells. At most 1, the largest a share can differ by.
    """
    detectable = estimate.half_width() + estimate.half_width(power)
    return min(1.0, max(unseen(estimate.seeds * estimate.classes, power), detectable))


def unseen(cells: int, power: float = LEVEL) -> float:
    """Return 1 - (1 - power)^(1 / cells): if a larger share of classes leaked in full, one of ``cells`` would show it.

    "No class leaked" is never certainty: of five classes none may show although a third of all do.
    """
    return float(1 - (1 - power) ** (1 / cells))
