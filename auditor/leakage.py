"""How much of an attack's score the victim's images explain.

s(X) is the mean score of arm X, a share in [0, 1] (spec: audit, "Scores"):

    FPR_t        = s(B2)                                            against a model that never saw the victim
    L_t          = s(A) - s(B2)                                     victim-attributable leakage
    corrected    = (s(A) - FPR) / (1 - FPR)                         of what is left to win, never clipped
    normalised   = (s(A) - m) / (s(CEIL) - m),  m = max(s(B0), s(B2), s(B3))

All means are over the cells (seed, class) that every arm concerned holds, and their intervals come from
common bootstrap draws. The maximum is of means, so the best single control counts; being a maximum of noisy
figures it is somewhat too high, and the normalised leakage somewhat too low.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from auditor.arms import ARMS
from auditor.omitted import Omitted
from auditor.statistics import (
    DRAWS,
    NOTHING,
    Cells,
    Estimate,
    aligned,
    bootstrap_means,
    estimate,
    expanded_interval,
    marks_of,
    paired_difference,
)
from auditor.table import cells

Floats = NDArray[np.float64]
PRIORS = ("B0", "B2", "B3")  # controls of the normalised form: what an attacker reaches without the victim
NO_INTERVAL = "no spread: no interval can be had"
# Share of bootstrap draws in which a quotient must exist for its interval to mean anything.
FEWEST_VALID = 0.99


def corrected(attack: Floats, false_positives: Floats) -> Floats:
    """Return (A - FPR) / (1 - FPR), elementwise and never clipped; NaN where FPR is 1."""
    left = 1 - np.asarray(false_positives, np.float64)
    quotient: Floats = np.divide(attack - false_positives, left, out=np.full_like(left, np.nan), where=left > 0)
    return quotient


def normalised(attack: Floats, controls: Floats, ceiling: Floats) -> Floats:
    """Return (A - m) / (CEIL - m) with m the largest of ``controls`` [n, ...]; NaN where CEIL does not exceed
    m."""
    most = np.max(controls, axis=0)
    room = np.asarray(ceiling - most, np.float64)
    quotient: Floats = np.divide(attack - most, room, out=np.full_like(room, np.nan), where=room > 0)
    return quotient


@dataclass(frozen=True)
class Quotient:
    """A corrected or normalised leakage with its 95 % interval; may lie outside [0, 1]."""

    value: float
    low: float
    high: float
    marks: tuple[str, ...]


@dataclass(frozen=True)
class Gate:
    """Whether the target knows the victim's classes at all.

    Attributes:
        accuracy: of the target on the victim classes' reserve images, in [0, 1].
        threshold: least accuracy at which finding nothing says something.
    """

    accuracy: float
    threshold: float

    @property
    def learned(self) -> bool:
        """Whether the gate is passed."""
        return self.accuracy >= self.threshold

    def __str__(self) -> str:
        """Say it: never "safe"."""
        state = "learned" if self.learned else "not learned yet"
        return f"{state}: accuracy {self.accuracy:.0%} on the victim's classes, gate {self.threshold:.0%}"


@dataclass(frozen=True)
class Leakage:
    """Everything said about one attack at one round.

    Attributes:
        attack: label of the attack.
        round: t.
        arms: mean score of every arm, or why it is missing; key "A" is the attack, "B2" the false-positive
            rate.
        leakage: L_t.
        beyond: s(A) - s(X) for the other controls X of ``PRIORS``, B0 and B3.
        corrected: see the module.
        normalised: see the module.
    """

    attack: str
    round: int
    arms: dict[str, Estimate | Omitted]
    leakage: Estimate | Omitted
    beyond: dict[str, Estimate | Omitted]
    corrected: Quotient | Omitted
    normalised: Quotient | Omitted


def measure(
    scores: pd.DataFrame,
    attack: str,
    server_round: int,
    metric: str,
    random: np.random.Generator,
    *,
    draws: int = DRAWS,
) -> Leakage:
    """Return what the score table says about ``attack`` at ``server_round``.

    Args:
        scores: tidy table that ``auditor.table.check_table`` accepts.
        attack: label of the attack.
        server_round: t.
        metric: a score that is a share in [0, 1], higher is more leakage.
        random: source of the bootstrap draws.
        draws: number of bootstrap samples.
    """
    found = {arm: cells(scores, arm, attack, server_round, metric) for arm in ARMS}
    arms: dict[str, Estimate | Omitted] = {
        arm: each if isinstance(each, Omitted) else estimate(each, random, draws) for arm, each in found.items()
    }
    differences = {arm: _difference(found["A"], found[arm], random, draws) for arm in PRIORS}
    return Leakage(
        attack,
        server_round,
        arms,
        differences.pop("B2"),
        differences,
        _corrected(found, random, draws),
        _normalised(found, random, draws),
    )


def _difference(
    attack: Cells | Omitted, control: Cells | Omitted, random: np.random.Generator, draws: int
) -> Estimate | Omitted:
    for arm in (attack, control):
        if isinstance(arm, Omitted):
            return arm
    assert isinstance(attack, Cells)
    assert isinstance(control, Cells)
    try:
        return paired_difference(attack, control, random, draws)
    except ValueError as error:
        return Omitted(str(error))


def _together(
    found: dict[str, Cells | Omitted], names: tuple[str, ...], random: np.random.Generator, draws: int
) -> tuple[Floats, Floats, Cells] | Omitted:
    """Return means [arms], bootstrap means [arms, draws] and one arm of the arms ``names`` over their common
    cells."""
    present: dict[str, Cells] = {}
    for name in names:
        arm = found[name]
        if isinstance(arm, Omitted):
            return arm
        present[name] = arm
    try:
        cut = list(aligned(present).values())
    except ValueError as error:
        return Omitted(str(error))
    means = np.array([arm.mean for arm in cut])
    return means, bootstrap_means(cut, random, draws), cut[0]


def _corrected(found: dict[str, Cells | Omitted], random: np.random.Generator, draws: int) -> Quotient | Omitted:
    drawn = _together(found, ("A", "B2"), random, draws)
    if isinstance(drawn, Omitted):
        return drawn
    means, samples, shared = drawn
    return _quotient(
        corrected(means[0:1], means[1:2]),
        corrected(*samples),
        shared.count,
        marks_of(len(shared.seeds), len(shared.labels)),
        "the control without the victim always succeeds",
    )


def _normalised(found: dict[str, Cells | Omitted], random: np.random.Generator, draws: int) -> Quotient | Omitted:
    drawn = _together(found, ("A", "CEIL", *PRIORS), random, draws)
    if isinstance(drawn, Omitted):
        return drawn
    means, samples, shared = drawn
    return _quotient(
        normalised(means[0:1], means[2:, None], means[1:2]),
        normalised(samples[0], samples[2:], samples[1]),
        shared.count,
        marks_of(len(shared.seeds), len(shared.labels)),
        "the ceiling on real images does not exceed the controls",
    )


def _quotient(
    value: Floats, sample: Floats, cells_held: int, marks: tuple[str, ...], undefined: str
) -> Quotient | Omitted:
    """Return the quotient, unless its denominator vanishes at the mean or in more than 1 % of the draws."""
    if np.isnan(value[0]) or np.isfinite(sample).mean() < FEWEST_VALID:
        return Omitted(undefined)
    if cells_held < 2 or np.nanstd(sample) <= NOTHING:
        return Quotient(float(value[0]), float(value[0]), float(value[0]), (*marks, NO_INTERVAL))
    return Quotient(float(value[0]), *expanded_interval(sample, cells_held), marks)
