"""The verdict: ``leak``, ``no leak detected`` or ``inconclusive``, with every reason, as a versioned JSON
document.

The primary attack, round and metric are fixed in the configuration before the run; the outcome speaks of them
alone (``auditor.decision``).

Schema of ``verdict.json``, version 1: the fields of ``Verdict`` below, docs/verdict.md. A figure that could not be had
is ``{"omitted": reason}``. Numbers are shares in [0, 1] unless their field says otherwise. A reader must refuse
a version it does not know; fields are only ever added within a version.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from auditor.decision import Outcome, above_controls, decide, sentence
from auditor.leakage import Gate, Leakage, Quotient, measure
from auditor.metrics.names import MEMBER
from auditor.omitted import Omitted
from auditor.settings import Primary
from auditor.statistics import LEVEL, Estimate, estimate, holm, minimum_detectable_effect
from auditor.table import attacks_of, cells, check_table, rounds_of
from fedinverse.errors import ConfigError
from fedinverse.seeds import numpy_generator

VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Missing(_Part):
    """A figure that could not be had."""

    omitted: str = Field(description="why")


class Interval(_Part):
    """A figure with its 95 % interval; ``marks`` must be shown wherever it is shown."""

    value: float
    low: float
    high: float
    marks: tuple[str, ...] = Field(description="what a reader must know before believing it; empty: nothing")


class GateReport(_Part):
    """The target's accuracy on the victim classes' reserve images, against the gate."""

    accuracy: float
    threshold: float
    learned: bool = Field(description="whether the gate is passed; below it nothing found says nothing")
    text: str


class Point(_Part):
    """One attack at one round."""

    attack: str
    round: int
    gate: GateReport | Missing
    arms: dict[str, Interval | Missing] = Field(description="mean score of every arm; B2: false positives")
    leakage: Interval | Missing = Field(description="victim-attributable: A - B2")
    corrected: Interval | Missing = Field(description="(A - FPR) / (1 - FPR), never clipped; read beside arms.B2")
    normalised: Interval | Missing = Field(description="(A - m) / (CEIL - m), m = max(B0, B2, B3)")
    p: float | Missing = Field(description="two-sided, of 'leakage is 0', unadjusted")
    p_holm: float | Missing = Field(description="the same, adjusted by Holm over the rounds of this attack")
    minimum_detectable_effect: float | Missing = Field(description="leakage found with 80 % probability")
    above_controls: bool | Missing = Field(description="A exceeds B0, B2 and B3, each with its interval")


class LeakCost(_Part):
    """What the primary attack cost its attacker for one class leaked."""

    seconds: float = Field(description="of the inversion, and of waiting for its prior")
    target_queries: float = Field(description="images sent through the captured model")
    classes_leaked: float = Field(description="leakage x classes")


class PrimaryReport(_Part):
    """What was fixed before the run."""

    attack: str
    round: int
    metric: str
    resolution: float = Field(description="smallest leakage that matters")


class Omission(_Part):
    """Figures that the score table lacks, for one reason."""

    metric: str
    reason: str
    arms: tuple[str, ...] = Field(description="the arms concerned")
    figures: int = Field(description="how many figures: exhibits, or classes of exhibits")


class Verdict(_Part):
    """``verdict.json``."""

    version: Literal[1] = Field(1, description="of this schema; fields are only ever added within a version")
    outcome: Outcome
    sentence: str = Field(description="the verdict in one sentence")
    reasons: tuple[str, ...] = Field(description="why this outcome, the decisive one first; never empty")
    primary: PrimaryReport
    seeds: int = Field(description="federation seeds the primary figure rests on")
    classes: int = Field(description="victim classes it rests on")
    points: tuple[Point, ...] = Field(description="every attack at every round, by attack and round")
    time_to_leak: dict[str, int | Missing] = Field(description="attack: first round that leaks, Holm-adjusted")
    cost_per_leaked_class: LeakCost | Missing
    member_lift: Interval | Missing = Field(
        description="share nearer to training than to reserve images: 0.5 prototypes, above memorised"
    )
    attacks: tuple[str, ...] = Field(description="the attacks this verdict is relative to")
    omitted: tuple[Omission, ...] = Field((), description="what the score table lacks, and why")
    marks: tuple[str, ...] = Field((), description="what must be shown wherever the verdict is; empty: nothing")


class AttackCost(_Part):
    """What one run of the primary attack on one captured model cost: all classes, all restarts."""

    seconds: float = Field(ge=0)
    target_queries: float = Field(ge=0)


def judge(
    scores: pd.DataFrame,
    primary: Primary,
    accuracy: Mapping[int, float],
    *,
    classes: int,
    seed: int,
    costs: Mapping[str, AttackCost] | None = None,
    omitted: tuple[Omission, ...] = (),
    marks: tuple[str, ...] = (),
) -> Verdict:
    """Return the verdict over a tidy score table.

    Args:
        scores: one row per seed x world x round x arm x attack x class x metric; see ``auditor.table``.
        primary: what was fixed before the run.
        accuracy: round -> accuracy of the model of the federation with the victim on the victim classes'
            reserve images, in [0, 1], mean over seeds.
        classes: number K of classes the evaluator knows; chance is 1 / K.
        seed: of the bootstrap.
        costs: attack -> cost of one run on one captured model; missing ones are omitted with a reason.
        omitted: what the table lacks, and why.
        marks: of the run (``auditor.marks``).

    Raises:
        DataError: malformed table.
        ConfigError: the primary attack or round is not in the table, or must be chosen.
    """
    check_table(scores)
    attack, server_round = _primary(scores, primary)
    random = numpy_generator(seed, "verdict")
    found = {
        (name, each): measure(scores, name, each, primary.metric, random, draws=primary.draws)
        for name in attacks_of(scores, primary.metric)
        for each in rounds_of(scores, name, primary.metric)
    }
    gates = {each: Gate(value, primary.gate) for each, value in accuracy.items()}
    adjusted = _adjusted(found)
    points = tuple(_point(leakage, gates, adjusted) for leakage in found.values())
    main = found[attack, server_round]
    outcome, reasons = decide(main, gates.get(server_round), primary, classes)
    known = main.arms["A"]
    assert isinstance(known, Estimate)
    return Verdict(
        outcome=outcome,
        sentence=sentence(outcome, main, attacks_of(scores, primary.metric)),
        reasons=reasons,
        primary=PrimaryReport(attack=attack, round=server_round, metric=primary.metric, resolution=primary.resolution),
        seeds=known.seeds,
        classes=known.classes,
        points=points,
        time_to_leak=_time_to_leak(points),
        cost_per_leaked_class=_cost(outcome, main, (costs or {}).get(attack)),
        member_lift=_member_lift(scores, attack, server_round, random, primary.draws),
        attacks=tuple(attacks_of(scores, primary.metric)),
        omitted=omitted,
        marks=marks,
    )


def _primary(scores: pd.DataFrame, primary: Primary) -> tuple[str, int]:
    attacks = attacks_of(scores, primary.metric)
    if not attacks:
        raise ConfigError(f"audit.primary.metric: no attack has a score '{primary.metric}'")
    if not primary.attack and len(attacks) > 1:
        raise ConfigError(
            f"audit.primary.attack must name one of {', '.join(attacks)}: the choice is made before the run"
        )
    attack = primary.attack or attacks[0]
    if attack not in attacks:
        raise ConfigError(f"audit.primary.attack is '{attack}'; the run has {', '.join(attacks)}")
    rounds = rounds_of(scores, attack, primary.metric)
    server_round = rounds[-1] if primary.round == -1 else primary.round
    if server_round not in rounds:
        raise ConfigError(f"audit.primary.round is {server_round}; '{attack}' was run at {', '.join(map(str, rounds))}")
    return attack, server_round


def _adjusted(found: Mapping[tuple[str, int], Leakage]) -> dict[tuple[str, int], float]:
    """Return Holm's adjustment within each attack over its rounds."""
    adjusted: dict[tuple[str, int], float] = {}
    for name in {attack for attack, _ in found}:
        p = {
            key: leakage.leakage.p
            for key, leakage in found.items()
            if key[0] == name and isinstance(leakage.leakage, Estimate)
        }
        adjusted |= dict(zip(p, holm(list(p.values())), strict=True))
    return adjusted


def _point(leakage: Leakage, gates: Mapping[int, Gate], adjusted: Mapping[tuple[str, int], float]) -> Point:
    gate = gates.get(leakage.round)
    difference = leakage.leakage
    above = above_controls(leakage)
    missing = Missing(omitted=difference.reason) if isinstance(difference, Omitted) else None
    return Point(
        attack=leakage.attack,
        round=leakage.round,
        gate=(
            Missing(omitted=f"no accuracy of round {leakage.round}")
            if gate is None
            else GateReport(accuracy=gate.accuracy, threshold=gate.threshold, learned=gate.learned, text=str(gate))
        ),
        arms={arm: _interval(each) for arm, each in leakage.arms.items()},
        leakage=_interval(difference),
        corrected=_interval(leakage.corrected),
        normalised=_interval(leakage.normalised),
        p=missing or difference.p,  # type: ignore[union-attr]
        p_holm=missing or adjusted[leakage.attack, leakage.round],
        minimum_detectable_effect=missing or minimum_detectable_effect(difference),  # type: ignore[arg-type]
        above_controls=Missing(omitted=above.reason) if isinstance(above, Omitted) else above,
    )


def _interval(found: Estimate | Quotient | Omitted) -> Interval | Missing:
    if isinstance(found, Omitted):
        return Missing(omitted=found.reason)
    return Interval(value=found.value, low=found.low, high=found.high, marks=found.marks)


def _time_to_leak(points: tuple[Point, ...]) -> dict[str, int | Missing]:
    """Return, for every attack, its first round that leaks after Holm's adjustment and beats every
    control."""
    first: dict[str, int | Missing] = {}
    for point in sorted(points, key=lambda point: -point.round):
        first.setdefault(point.attack, Missing(omitted="no round leaks"))
        leaks = isinstance(point.p_holm, float) and point.p_holm < 1 - LEVEL and point.above_controls is True
        if leaks:
            first[point.attack] = point.round
    return dict(sorted(first.items()))


def _cost(outcome: Outcome, main: Leakage, cost: AttackCost | None) -> LeakCost | Missing:
    if outcome != "leak":
        return Missing(omitted=f"the verdict is '{outcome}'")
    if cost is None:
        return Missing(omitted=f"the cost of {main.attack} was not recorded")
    assert isinstance(main.leakage, Estimate)
    leaked = main.leakage.value * main.leakage.classes
    return LeakCost(seconds=cost.seconds / leaked, target_queries=cost.target_queries / leaked, classes_leaked=leaked)


def _member_lift(
    scores: pd.DataFrame, attack: str, server_round: int, random: np.random.Generator, draws: int
) -> Interval | Missing:
    found = cells(scores, "A", attack, server_round, MEMBER)
    return _interval(found if isinstance(found, Omitted) else estimate(found, random, draws))
