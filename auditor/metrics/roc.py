"""How well a score tells members from non-members: ROC curve, its area, true positives at a fixed false-positive rate.

A candidate is called a member when its score is at least a threshold. Ties count half in the area (Mann-Whitney). The
true-positive rate at a false-positive rate f is the largest that a threshold reaches without exceeding f; with fewer
than ``10 / f`` non-members the tail rests on a handful of records, and the figure is omitted (Carlini et al. 2022 ask
for it at .1 %, which needs ten thousand).

Intervals are 95 % percentile intervals of a bootstrap over candidates, members and non-members apart: what another draw
of candidates would give of *this* model. They say nothing of another federation.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from auditor.omitted import Omitted
from auditor.statistics import Bounded

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

RATES = (0.01, 0.001)
PER_RATE = 10  # non-members beyond a rate's threshold that are wanted for it
DRAWS = 1000
_PART = 50  # resamples computed at once


@dataclass(frozen=True)
class Roc:
    """A ROC curve.

    Attributes:
        false: float64 [P], false-positive rates from 0 to 1, one point per different threshold.
        true: float64 [P], true-positive rates.
    """

    false: Floats
    true: Floats


@dataclass(frozen=True)
class RocSummary:
    """How well one score tells members from non-members.

    Attributes:
        auc: area under the curve; .5 tells nothing, 1 everything.
        balanced: balanced accuracy of the threshold that was best on the other half of the candidates, both halves.
        rates: true-positive rate by false-positive rate, for ``RATES``.
        members: how many.
        others: how many non-members.
    """

    auc: Bounded
    balanced: Bounded
    rates: dict[float, Bounded | Omitted]
    members: int
    others: int


def roc(scores: Floats, member: Bools) -> Roc:
    """Return the curve of ``scores`` [N], of which those of ``member`` [N] should be the higher ones."""
    ends, weights = _sorted(scores, member)
    false, true = _curves(ends, weights[0][None], weights[1][None])
    return Roc(false[0], true[0])


def auc(scores: Floats, member: Bools) -> float:
    """Return the area under the ROC curve: P(member > other) + P(tie) / 2."""
    curve = roc(scores, member)
    return float(np.trapezoid(curve.true, curve.false))


def true_at(curve: Roc, rate: float) -> float:
    """Return the largest true-positive rate of ``curve`` with at most ``rate`` false positives."""
    return float(curve.true[curve.false <= rate + 1e-12].max())


def told_apart(scores: Floats, member: Bools, random: np.random.Generator, draws: int = DRAWS) -> RocSummary:
    """Return every figure of ``scores`` [N] with its interval.

    Args:
        scores: higher for members; finite.
        member: which candidates are members; both kinds occur.
        random: draws the bootstrap and the halves.
        draws: bootstrap resamples.

    Raises:
        ValueError: a score is not finite, or there are no members or no non-members.
    """
    if not np.isfinite(scores).all():
        raise ValueError("a membership score is not finite")
    members, others = int(member.sum()), int((~member).sum())
    if not members or not others:
        raise ValueError(f"{members} members and {others} non-members: both are needed")
    ends, base = _sorted(scores, member)
    whole = roc(scores, member)
    areas, tails = [], []
    for start in range(0, draws, _PART):
        count = min(_PART, draws - start)
        counts = [
            random.multinomial(int(each.sum()), each / each.sum(), size=count).astype(np.float64) for each in base
        ]
        false, true = _curves(ends, counts[0], counts[1])
        areas.append(np.trapezoid(true, false, axis=1))
        tails.append([np.where(false <= rate + 1e-12, true, 0).max(1) for rate in RATES])
    rates: dict[float, Bounded | Omitted] = {}
    for place, rate in enumerate(RATES):
        needed = round(PER_RATE / rate)
        if others < needed:
            rates[rate] = Omitted(f"{others} non-members, {needed:,} are needed for {100 * rate:g} % false positives")
        else:
            rates[rate] = _bounded(true_at(whole, rate), np.concatenate([part[place] for part in tails]))
    area = float(np.trapezoid(whole.true, whole.false))
    balanced = _balanced(scores, member, random, draws)
    return RocSummary(_bounded(area, np.concatenate(areas)), balanced, rates, members, others)


def paired_difference(
    first: Floats, second: Floats, member: Bools, random: np.random.Generator, draws: int = DRAWS
) -> Bounded:
    """Return the area of ``first`` less that of ``second``, two scores of the same candidates, resampled together."""
    base = ((~member).astype(np.float64), member.astype(np.float64))
    sides = [(scores, np.argsort(-scores, kind="stable")) for scores in (first, second)]
    drawn = []
    for start in range(0, draws, _PART):
        count = min(_PART, draws - start)
        counts = [
            random.multinomial(int(each.sum()), each / each.sum(), size=count).astype(np.float64) for each in base
        ]
        areas = []
        for scores, order in sides:
            ends, _ = _sorted(scores, member)
            false, true = _curves(ends, counts[0][:, order], counts[1][:, order])
            areas.append(np.trapezoid(true, false, axis=1))
        drawn.append(areas[0] - areas[1])
    return _bounded(auc(first, member) - auc(second, member), np.concatenate(drawn))


def permuted_area(
    scores: Floats, member: Bools, random: np.random.Generator, draws: int = DRAWS
) -> tuple[Bounded, float]:
    """Return the area with memberships dealt at random, mean and 95 % of the draws, and the p-value of the real one.

    The p-value is the share of permutations whose area is at least the real one (one-sided, the real one counted in).
    """
    real, copy = auc(scores, member), member.copy()
    areas = []
    for _ in range(draws):
        random.shuffle(copy)
        areas.append(_rank_area(scores, copy))
    drawn = np.array(areas)
    return _bounded(float(drawn.mean()), drawn), float((1 + (drawn >= real - 1e-12).sum()) / (draws + 1))


def _rank_area(scores: Floats, member: Bools) -> float:
    """Return the area from mean ranks: the same number as ``auc``, faster."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = counts.cumsum() - (counts - 1) / 2
    members = int(member.sum())
    return float((mean_rank[inverse][member].sum() - members * (members + 1) / 2) / (members * (len(member) - members)))


def _sorted(scores: Floats, member: Bools) -> tuple[NDArray[np.int64], tuple[Floats, Floats]]:
    """Return the last place of every tie when sorted from the highest score, and [N] weights of (others, members)."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    return ends, ((~member[order]).astype(np.float64), member[order].astype(np.float64))


def _curves(ends: NDArray[np.int64], others: Floats, members: Floats) -> tuple[Floats, Floats]:
    """Return false- and true-positive rates [B, P] of weights [B, N] in sorted order; they begin with (0, 0)."""
    rates = []
    for weights in (others, members):
        reached = weights.cumsum(1)[:, ends] / weights.sum(1, keepdims=True)
        rates.append(np.concatenate([np.zeros((len(weights), 1)), reached], 1))
    return rates[0], rates[1]


def _balanced(scores: Floats, member: Bools, random: np.random.Generator, draws: int) -> Bounded:
    """Return the balanced accuracy, each half judged by the other's best threshold; a resample is of the answers."""
    half = np.zeros(len(scores), bool)
    for kind in (member, ~member):
        rows = random.permutation(np.flatnonzero(kind))
        half[rows[: len(rows) // 2]] = True
    right = np.zeros(len(scores))
    for judged in (half, ~half):
        learned = ~judged
        if not (member & learned).any() or not (~member & learned).any():
            return Bounded(0.5, 0.0, 1.0)  # a single candidate of a kind: nothing to learn a threshold from
        threshold = _best_threshold(scores[learned], member[learned])
        right[judged] = (scores[judged] >= threshold) == member[judged]
    drawn = np.zeros(draws)
    value = 0.0
    for kind in (member, ~member):
        answers = right[kind]
        value += float(answers.mean()) / 2
        drawn += random.binomial(len(answers), answers.mean(), size=draws) / len(answers) / 2
    return _bounded(value, drawn)


def _best_threshold(scores: Floats, member: Bools) -> float:
    """Return the threshold that is right most often, both kinds counting the same: half-way to the next score."""
    ends, weights = _sorted(scores, member)
    false, true = _curves(ends, weights[0][None], weights[1][None])
    best = int((true[0] - false[0]).argmax())
    ranked = np.append(np.sort(scores)[::-1], -np.inf)
    if best == 0 or best == len(ends):  # call none a member, or all
        return float(np.inf if best == 0 else -np.inf)
    return float(ranked[ends[best - 1]] + ranked[ends[best - 1] + 1]) / 2


def _bounded(value: float, drawn: Floats) -> Bounded:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Bounded(value, float(low), float(high))
