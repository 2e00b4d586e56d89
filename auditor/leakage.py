"""How much of an attack's score the victim's images explain.

s(X) is the mean score of arm X, a share in [0, 1] (spec: audit, "Scores"):

    FPR_t        = s(B2)                                            against a model that never saw the victim
    L_t          = s(A) - s(B2)                                     victim-attributable leakage
    corrected    = (s(A) - FPR) / (1 - FPR)                         of what is left to win, never clipped
    normalised   = (s(A) - m) / (s(CEIL) - m),  m = max(s(B0), s(B2), s(B3))

All means are over the seeds and classes that every arm concerned holds. The intervals of the quotients are those of
their linear forms at the means (delta method). The maximum is of means, so the best single control counts; being a
maximum of noisy figures it is somewhat too high, and the normalised leakage somewhat too low.

In one run, arms of different models differ by luck too: a difference between the attack (A) and a control on another
federation's model carries the deviation between runs of both. Differences from arms on the same model (B4) or without a
model (B0) do not.
"""

from dataclasses import dataclass
from functools import partial

from auditor import attribution
from auditor.arms import ARMS, keys
from auditor.attribution import Attribution, attribute
from auditor.metrics.names import COPY_GUARD, MEMBER, RESEMBLANCE
from auditor.omitted import Omitted
from auditor.statistics import (
    BetweenRuns,
    Cells,
    Estimate,
    aligned,
    between_runs,
    combine,
    consistent,
    difference,
    estimate,
    unless_omitted,
)
from auditor.table import AttackCells

PRIORS = ("B0", "B2", "B3")  # controls of the normalised form: what an attacker reaches without the victim
OTHER_MODELS = ("B1", "B2", "B3", "B4W")
BASELINES = tuple(arm for arm in keys("baseline") if arm != "B2")
FURTHER = (("A", RESEMBLANCE), ("A", COPY_GUARD), *attribution.CELLS)
"""Arms and metrics that are read beside every arm's score."""


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
        consistent: whether A lies above B2 in this run, whatever the next would be.
        leads: s(A) - s(X) for every other baseline X, B0, B1, B3 and B4.
        selection: s(B4) - s(B4W): how much of what public images score the victim's images explain.
        corrected: see the module.
        normalised: see the module.
        resemblance: share of the attack's images near enough to a training image by E2.
        copy_guard: share of them nearer to a victim's image than to any the attacker holds.
        between: the deviation between runs that one run's figures carry.
        member_share: share of them nearer to a training than to a reserve image; one half: class prototypes.
        attribution: whose images are shown, of a victim who shares their classes; None: they are theirs alone.
    """

    attack: str
    round: int
    arms: dict[str, Estimate | Omitted]
    leakage: Estimate | Omitted
    consistent: bool
    leads: dict[str, Estimate | Omitted]
    selection: Estimate | Omitted
    corrected: Estimate | Omitted
    normalised: Estimate | Omitted
    resemblance: Estimate | Omitted
    copy_guard: Estimate | Omitted
    between: BetweenRuns
    member_share: Estimate | Omitted
    attribution: Attribution | None = None


def measure(cells: AttackCells, deviation: float) -> Leakage:
    """Return what the score table says about one attack at one round.

    Args:
        cells: of a score that is a share in [0, 1], higher is more leakage; with those of ``FURTHER``.
        deviation: between runs, of the mean score of one federation; measured instead where a run has several
            control worlds.
    """
    held, further = cells.arms, cells.further
    whose = attribute(further)
    between = between_runs(cells.control_worlds, deviation)

    def lead(arm: str, other: str) -> Estimate | Omitted:
        averaged = between.worlds if ARMS[other].lacks_victim else 1
        error = between.error(1 + 1 / averaged) if other in OTHER_MODELS else None
        return unless_omitted(partial(difference, between=error), held[arm], held[other])

    return Leakage(
        cells.attack,
        cells.round,
        {arm: unless_omitted(estimate, each) for arm, each in held.items()},
        lead("A", "B2"),
        unless_omitted(consistent, held["A"], held["B2"]) is True,
        {arm: lead("A", arm) for arm in BASELINES},
        lead("B4", "B4W"),
        unless_omitted(partial(_corrected, between), held["A"], held["B2"]),
        unless_omitted(partial(_normalised, between), *(held[arm] for arm in ("A", "CEIL", *PRIORS))),
        unless_omitted(estimate, further["A", RESEMBLANCE]),
        unless_omitted(estimate, further["A", COPY_GUARD]),
        between,
        unless_omitted(estimate, further["A", MEMBER]),
        whose,
    )


def _corrected(between: BetweenRuns, attack: Cells, control: Cells) -> Estimate | Omitted:
    both = list(aligned({"A": attack, "B2": control}).values())
    score, false_positives = (each.mean for each in both)
    left = 1 - false_positives
    if left <= 0:
        return Omitted("the control without the victim always succeeds")
    weights = [1 / left, -(1 - score) / left**2]
    runs = weights[0] ** 2 + weights[1] ** 2 / between.worlds
    return combine(both, weights, between.error(runs), value=(score - false_positives) / left)


def _normalised(between: BetweenRuns, attack: Cells, ceiling: Cells, *controls: Cells) -> Estimate | Omitted:
    shared = aligned({"A": attack, "CEIL": ceiling} | dict(zip(PRIORS, controls, strict=True)))
    best = max(PRIORS, key=lambda arm: shared[arm].mean)
    score, most, least = (shared[arm].mean for arm in ("A", "CEIL", best))
    room = most - least
    if room <= 0:
        return Omitted("the ceiling on real images does not exceed the controls")
    share = (score - least) / room
    weights = {"A": 1 / room, "CEIL": -share / room, best: (share - 1) / room}
    runs = weights["A"] ** 2 + (weights[best] ** 2 if best in OTHER_MODELS else 0)
    return combine([shared[arm] for arm in weights], list(weights.values()), between.error(runs), value=share)
