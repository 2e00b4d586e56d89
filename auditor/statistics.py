"""Uncertainty of scores: classes within federation seeds are resampled, never single reconstructions.

Scores are ``Cells``: one value per federation seed and victim class. Reconstructions of one class from one
model are near copies of each other, so they enter as one mean; seeds are drawn first and classes within each
drawn seed (hierarchical bootstrap, Davison and Hinkley 1997, section 3.8). Differences are taken cell by cell
before anything is
drawn: the same seed and class under two arms, with HSIC and without, defended and undefended.

A percentile interval of few cells is too short (5 cells: 85 % instead of 95 %). Its quantiles are therefore
taken further out, at Phi(-sqrt(n / (n - 1)) t) with Student's t for n cells (the expanded percentile
interval, Hesterberg 2015, The American Statistician 69, section 4); with many cells nothing changes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

LEVEL = 0.95
POWER = 0.8
DRAWS = 10_000
FEWEST_CLASSES = 20
FEWEST_SEEDS = 5
TOO_FEW_CLASSES = "too few classes"
ONE_SEED = "one seed: the interval leaves out how much one training run differs from the next"
FEW_SEEDS = "few seeds: the interval is somewhat short"
NO_SPREAD = "no spread: Wilson's interval over cells stands in for the bootstrap"
NOTHING = 1e-12  # a spread that is rounding
BATCH = 1 << 22  # cells drawn at once


@dataclass(frozen=True)
class Cells:
    """One value per federation seed and class.

    Attributes:
        values: float64 [S, C]; NaN where that seed has no such class. Every seed has at least one class.
        seeds: the S seeds.
        labels: the C classes.
    """

    values: Floats
    seeds: tuple[int, ...]
    labels: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.seeds), len(self.labels)) or self.values.size == 0:
            raise ValueError(f"cells {self.values.shape} for {len(self.seeds)} seeds and {len(self.labels)} classes")
        if np.isinf(self.values).any() or np.isnan(self.values).all(1).any():
            raise ValueError("cells hold infinity, or a seed without any class")

    @property
    def mean(self) -> float:
        """The mean over seeds of the mean over classes."""
        return float(np.nanmean(self.values, 1).mean())

    @property
    def count(self) -> int:
        """Number of cells that hold a value."""
        return int(np.isfinite(self.values).sum())


@dataclass(frozen=True)
class Estimate:
    """A mean with its uncertainty.

    Attributes:
        value: mean over seeds of the mean over classes.
        low: lower end of the 95 % interval.
        high: upper end.
        error: standard error, the standard deviation over bootstrap draws.
        p: two-sided p-value of "the mean is 0"; of use for differences.
        seeds: number of federation seeds S.
        classes: number of classes C.
        cells: number of values n, at most S C.
        marks: what a reader must know before believing the interval; empty: nothing.
    """

    value: float
    low: float
    high: float
    error: float
    p: float
    seeds: int
    classes: int
    cells: int
    marks: tuple[str, ...]


def marks_of(seeds: int, classes: int) -> tuple[str, ...]:
    """Return what limits an interval over that many seeds and classes."""
    marks = [TOO_FEW_CLASSES] if classes < FEWEST_CLASSES else []
    if seeds < FEWEST_SEEDS:
        marks.append(ONE_SEED if seeds == 1 else FEW_SEEDS)
    return tuple(marks)


def aligned(arms: Mapping[str, Cells]) -> dict[str, Cells]:
    """Return ``arms`` cut to the seeds and classes that hold a value in every one of them.

    Raises:
        ValueError: there is no such cell.
    """
    tables = list(arms.values())
    seeds = sorted(set.intersection(*(set(cells.seeds) for cells in tables)))
    labels = sorted(set.intersection(*(set(cells.labels) for cells in tables)))
    if not seeds or not labels:
        raise ValueError(f"{', '.join(arms)} share no seed and class")
    cut = np.stack(
        [
            cells.values[np.ix_([cells.seeds.index(s) for s in seeds], [cells.labels.index(c) for c in labels])]
            for cells in tables
        ]
    )
    cut[:, np.isnan(cut).any(0)] = np.nan
    rows, columns = (np.isfinite(cut[0]).any(axis) for axis in (1, 0))
    if not rows.any():
        raise ValueError(f"{', '.join(arms)} share no seed and class")
    cut = cut[:, rows][:, :, columns]
    kept = tuple(np.array(seeds)[rows].tolist()), tuple(np.array(labels)[columns].tolist())
    return {name: Cells(values, *kept) for name, values in zip(arms, cut, strict=True)}


def bootstrap_means(cells: Sequence[Cells], random: np.random.Generator, draws: int = DRAWS) -> Floats:
    """Return the hierarchical bootstrap of several arms' means under common draws, float64 [arms, draws].

    Args:
        cells: arms as ``aligned`` returns them.
        random: source of the draws.
        draws: number of bootstrap samples.

    Raises:
        ValueError: the arms do not hold the same cells.
    """
    stack = np.stack([arm.values for arm in cells], -1)  # [S, C, arms]
    present = np.isfinite(stack)
    if not (present == present[..., :1]).all() or any(arm.labels != cells[0].labels for arm in cells):
        raise ValueError("the arms hold different cells; align them first")
    # The classes of each seed to the front, so that a draw among the first n of a row is one among its own.
    order = np.argsort(~present[..., 0], axis=1, kind="stable")
    packed = np.take_along_axis(stack, order[..., None], 1)
    held = present[..., 0].sum(1)
    seeds, classes, arms = packed.shape
    position = np.arange(classes)
    means = np.empty((arms, draws))
    step = max(1, BATCH // (seeds * classes * arms))
    for start in range(0, draws, step):
        count = min(step, draws - start)
        drawn = random.integers(seeds, size=(count, seeds))
        n = held[drawn][..., None]  # as many classes as the drawn seed holds
        pick = (random.random((count, seeds, classes)) * n).astype(np.int64)
        values = np.where((position < n)[..., None], packed[drawn[..., None], pick], 0.0)
        means[:, start : start + count] = (values.sum(2) / n).mean(1).T
    return means


def estimate(cells: Cells, random: np.random.Generator, draws: int = DRAWS, *, share: bool = True) -> Estimate:
    """Return the mean of ``cells`` with its 95 % interval.

    Args:
        cells: one value per seed and class.
        random: source of the draws.
        draws: number of bootstrap samples.
        share: the values are shares in [0, 1]. If all are equal the bootstrap would claim certainty; Wilson's
            interval for as many trials as there are cells stands in, and is marked. Other values without
            spread keep an interval of length 0, marked all the same.
    """
    sample = bootstrap_means([cells], random, draws)[0]
    interval = None
    if share and sample.std() <= NOTHING:
        interval = wilson(cells.mean * cells.count, cells.count)
    return _summary(cells, sample, interval)


def paired_difference(
    first: Cells, second: Cells, random: np.random.Generator, draws: int = DRAWS, *, share: bool = True
) -> Estimate:
    """Return the mean of ``first`` - ``second`` over the cells both hold, with its 95 % interval.

    If every cell differs by the same amount (5 of 5 classes against none, say), the bootstrap would claim
    certainty; for shares Newcombe's interval of a difference (1998, method 10) for as many trials as there
    are cells stands in, and is marked.

    Raises:
        ValueError: they share no cell.
    """
    both = aligned({"first": first, "second": second})
    a, b = both["first"], both["second"]
    difference = Cells(a.values - b.values, a.seeds, a.labels)
    sample = bootstrap_means([difference], random, draws)[0]
    interval = None
    if share and sample.std() <= NOTHING:
        interval = newcombe(a.mean, b.mean, difference.count)
    return _summary(difference, sample, interval)


def _summary(cells: Cells, sample: Floats, instead: tuple[float, float] | None) -> Estimate:
    value, n = cells.mean, cells.count
    marks = marks_of(len(cells.seeds), len(cells.labels))
    if sample.std() > NOTHING:
        low, high = expanded_interval(sample, n)
        error, p = float(sample.std(ddof=1)), bootstrap_p(sample, n)
    else:
        marks = (*marks, NO_SPREAD)
        low, high = instead or (value, value)
        # Read the error off the side of the interval that looks at 0, as if it were a normal's; and p off the
        # error.
        toward = value - low if value > 0 else high - value if value < 0 else max(value - low, high - value)
        error = toward / float(special.ndtri((1 + LEVEL) / 2))
        p = float(2 * special.ndtr(-abs(value) / error)) if error > 0 else float(value == 0)
    return Estimate(value, low, high, error, p, len(cells.seeds), len(cells.labels), n, marks)


def expanded_interval(sample: Floats, n: int) -> tuple[float, float]:
    """Return the 95 % interval of bootstrap values [draws] of at least 2 cells; NaN draws are left out."""
    tail = float(special.ndtr(-_expansion(n) * special.stdtrit(n - 1, (1 + LEVEL) / 2)))
    low, high = np.nanquantile(sample, [tail, 1 - tail])
    return float(low), float(high)


def _expansion(n: int) -> float:
    """Return sqrt(n / (n - 1)): a bootstrap of n cells sees the biased deviation."""
    return math.sqrt(n / (n - 1))


def bootstrap_p(sample: Floats, n: int) -> float:
    """Return the two-sided p-value of "the mean is 0" that goes with the expanded interval.

    Args:
        sample: bootstrap means, [draws], not all equal.
        n: number of cells, at least 2.

    Where no draw lies beyond 0 the normal fit of the draws stands in for the tail nobody drew.
    """
    tail = min(int((sample <= 0).sum()), int((sample >= 0).sum()))
    score = float(special.ndtri(min(0.5, (1 + tail) / (1 + len(sample)))))
    if tail == 0:
        score = min(score, -abs(float(sample.mean())) / float(sample.std()))
    return float(2 * special.stdtr(n - 1, score / _expansion(n)))


def wilson(successes: float, trials: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval (1927) of a share; ``successes`` may be fractional (a sum of shares)."""
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes:g} successes of {trials} trials")
    z2 = float(special.ndtri((1 + LEVEL) / 2)) ** 2
    share = successes / trials
    centre = share + z2 / (2 * trials)
    half = math.sqrt(z2 * (share * (1 - share) / trials + z2 / (4 * trials**2)))
    low, high = ((centre + sign * half) / (1 + z2 / trials) for sign in (-1, 1))
    return max(0.0, min(low, share)), min(1.0, max(high, share))


def newcombe(first: float, second: float, trials: int) -> tuple[float, float]:
    """Return Newcombe's 95 % interval (1998, method 10) of ``first`` - ``second``, two shares of ``trials``
    each."""
    (a_low, a_high), (b_low, b_high) = (wilson(share * trials, trials) for share in (first, second))
    apart = first - second
    return (
        apart - math.hypot(first - a_low, b_high - second),
        apart + math.hypot(a_high - first, second - b_low),
    )


def holm(p: Sequence[float]) -> tuple[float, ...]:
    """Return Holm's step-down adjustment (1979) of p-values, in their order: compare each with the level
    itself."""
    count = len(p)
    adjusted = [0.0] * count
    running = 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda i: p[i])):
        running = max(running, min(1.0, (count - rank) * p[index]))
        adjusted[index] = running
    return tuple(adjusted)


def minimum_detectable_effect(found: Estimate, power: float = POWER) -> float:
    """Return the smallest mean difference that would have been found with probability ``power``.

    The larger of two: (t_.975 + t_power) standard errors, n - 1 degrees of freedom for n cells (Bloom 1995);
    and 1 - (1 - power)^(1 / n), the share of classes that must leak in full for at least one of n to show
    with that probability, so that "no class leaked" is never read as certainty. At most 1, the largest a
    share can differ by.
    """
    n = found.cells
    if n < 2:
        return 1.0
    factor = float(special.stdtrit(n - 1, (1 + LEVEL) / 2) + special.stdtrit(n - 1, power))
    unseen = float(1 - (1 - power) ** (1 / n))
    return min(1.0, max(unseen, factor * found.error))
