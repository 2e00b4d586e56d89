"""The verdict: ``leak``, ``no leak detected`` or ``inconclusive``, with every reason, as a versioned JSON
document.

The primary attack, round and metric are fixed in the configuration before the run; the outcome speaks of them
alone. With L = s(A) - s(B2) and its 95 % interval (``auditor.leakage``):

``leak``
    The intervals of L, s(A) - s(B0) and s(A) - s(B3) lie above 0: neither a federation without the victim nor
    the prior nor the attacker's own shard explains the score. All must hold, so no correction for several
    tests is due. It holds below the gate as well. B3, which B2 contains, may be missing and is then named; B0
    may not.
``no leak detected``
    L was not found, the target knows the classes (gate), the evaluator recognises real images (ceiling), and
    a leak of ``resolution`` would have been found with 80 % probability. Relative to these attacks, always.
``inconclusive``
    Everything else; ``reasons`` says what is missing.

A B5 above chance means that the instrument scores what cannot be there: always ``inconclusive``.

Schema of ``verdict.json``, version 1: the fields of ``Verdict`` below. A figure that could not be had is
``{"omitted": reason}``. Numbers are shares in [0, 1] unless their field says otherwise. A reader must refuse
a version it does not know; fields are only ever added within a version.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from auditor.leakage import Gate, Leakage, Quotient, measure
from auditor.omitted import Omitted
from auditor.statistics import (
    DRAWS,
    LEVEL,
    Estimate,
    estimate,
    holm,
    minimum_detectable_effect,
)
from auditor.table import attacks_of, cells, check_table, rounds_of
from fedinverse.config import Section
from fedinverse.errors import ConfigError
from fedinverse.seeds import numpy_generator

VERSION = 1
Outcome = Literal["leak", "no leak detected", "inconclusive"]


class Primary(Section):
    """What the verdict speaks of. Fixed before the run; changing it afterwards is choosing the answer."""

    attack: str = Field("", description="label of the primary attack; empty: the only one, or an error")
    round: int = Field(-1, ge=-1, description="primary round; -1: the last one captured")
    metric: str = Field("attack-accuracy", description="primary score, a share in [0, 1]")
    gate: float = Field(
        0.5, ge=0, le=1, description="accuracy on the victim classes below which a round is 'not learned yet'"
    )
    ceiling: float = Field(
        0.5, ge=0, le=1, description="score of real reserve images below which the evaluator cannot judge"
    )
    resolution: float = Field(
        0.25, gt=0, le=1, description="smallest leakage that matters; the run must be able to find it"
    )
    draws: int = Field(DRAWS, ge=1000, description="bootstrap samples")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Missing(_Part):
    """A figure that could not be had."""

    omitted: str


class Interval(_Part):
    """A figure with its 95 % interval; ``marks`` must be shown wherever it is shown."""

    value: float
    low: float
    high: float
    marks: tuple[str, ...]


class GateReport(_Part):
    """The target's accuracy on the victim classes' reserve images, against the gate."""

    accuracy: float
    threshold: float
    learned: bool
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
    """What the primary attack cost its attacker for one class leaked; the class count is leakage x
    classes."""

    seconds: float
    target_queries: float
    classes_leaked: float


class PrimaryReport(_Part):
    """What was fixed before the run."""

    attack: str
    round: int
    metric: str
    resolution: float


class Verdict(_Part):
    """``verdict.json``."""

    version: Literal[1] = 1
    outcome: Outcome
    sentence: str = Field(description="the verdict in one sentence")
    reasons: tuple[str, ...] = Field(description="why this outcome, the decisive one first; never empty")
    primary: PrimaryReport
    seeds: int
    classes: int
    points: tuple[Point, ...] = Field(description="every attack at every round, by attack and round")
    time_to_leak: dict[str, int | Missing] = Field(description="attack: first round that leaks, Holm-adjusted")
    cost_per_leaked_class: LeakCost | Missing
    member_lift: Interval | Missing = Field(
        description="share nearer to training than to reserve images: 0.5 prototypes, above memorised"
    )
    attacks: tuple[str, ...] = Field(description="the attacks this verdict is relative to")


class AttackCost(_Part):
    """What one run of the primary attack on one captured model cost: all classes, all restarts."""

    seconds: float = Field(ge=0)
    target_queries: float = Field(ge=0)


MEMBER_METRIC = "member-share"
"""Metric of the score table whose mean over classes is the member lift (arm A)."""


def judge(
    scores: pd.DataFrame,
    primary: Primary,
    accuracy: Mapping[int, float],
    *,
    classes: int,
    seed: int,
    costs: Mapping[str, AttackCost] | None = None,
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
    outcome, reasons = _decide(main, gates.get(server_round), primary, classes)
    known = main.arms["A"]
    assert isinstance(known, Estimate)
    return Verdict(
        outcome=outcome,
        sentence=_sentence(outcome, main, attacks_of(scores, primary.metric)),
        reasons=reasons,
        primary=PrimaryReport(attack=attack, round=server_round, metric=primary.metric, resolution=primary.resolution),
        seeds=known.seeds,
        classes=known.classes,
        points=points,
        time_to_leak=_time_to_leak(points),
        cost_per_leaked_class=_cost(outcome, main, (costs or {}).get(attack)),
        member_lift=_member_lift(scores, attack, server_round, random, primary.draws),
        attacks=tuple(attacks_of(scores, primary.metric)),
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


def _above_controls(leakage: Leakage) -> bool | Omitted:
    """Return whether A lies above B2, B0 and, where it was run, B3, each by its own interval."""
    for needed in (leakage.leakage, leakage.beyond["B0"]):
        if isinstance(needed, Omitted):
            return needed
    differences = (leakage.leakage, *leakage.beyond.values())
    return all(each.low > 0 for each in differences if isinstance(each, Estimate))


def _decide(main: Leakage, gate: Gate | None, primary: Primary, classes: int) -> tuple[Outcome, tuple[str, ...]]:
    broken = _broken(main, classes)
    if broken:
        return "inconclusive", (broken,)
    difference = main.leakage
    if isinstance(difference, Omitted):
        return "inconclusive", (
            f"nothing can be attributed to the victim without a federation that lacks him: {difference.reason}",
        )
    marks = difference.marks
    if difference.low > 0:
        outcome, reasons = _found(main, difference)
        if gate is not None and not gate.learned:
            reasons = (*reasons, str(gate))
        return outcome, (*reasons, *marks)
    reasons = _blind(main, gate, difference, primary)
    if reasons:
        return "inconclusive", (
            f"leakage {_show(difference)} is not above 0, which says nothing here",
            *reasons,
            *marks,
        )
    detectable = minimum_detectable_effect(difference)
    return "no leak detected", (
        f"leakage {_show(difference)} is not above 0",
        f"a leakage of {detectable:.0%} would have been found with 80 % probability",
        *([str(gate)] if gate else []),
        *marks,
    )


def _found(main: Leakage, difference: Estimate) -> tuple[Outcome, tuple[str, ...]]:
    """Judge an attack that beats B2: a leak only if the prior and the own shard do not explain it as well."""
    above = f"leakage {_show(difference)} lies above 0"
    beaten, not_run = ["B2"], []
    for arm, control in main.beyond.items():
        if isinstance(control, Omitted):
            if arm == "B0":
                return "inconclusive", (f"{above}, but the prior alone was not scored: {control.reason}",)
            not_run.append(f"control {arm} was not run: {control.reason}")
            continue
        beaten.append(arm)
        if control.low <= 0:
            what = "the prior alone" if arm == "B0" else "a model of the attacker's own shard"
            return "inconclusive", (
                f"{above}, but {what} ({arm}) may do as well: the lead over it is {_show(control)}",
            )
    return "leak", (f"{above}, and the attack beats {', '.join(sorted(beaten))}", *not_run)


def _broken(main: Leakage, classes: int) -> str:
    """Return what shows that the instrument scores what cannot be there; empty: nothing."""
    permuted = main.arms["B5"]
    if isinstance(permuted, Estimate) and permuted.low > 1 / classes:
        return f"the instrument is broken: permuted labels score {_show(permuted)}, above chance, {1 / classes:.0%}"
    return ""


def _blind(main: Leakage, gate: Gate | None, difference: Estimate, primary: Primary) -> tuple[str, ...]:
    """Return why finding nothing says nothing; empty: it does."""
    reasons = []
    if gate is None:
        reasons.append("the target's accuracy on the victim's classes is unknown")
    elif not gate.learned:
        reasons.append(str(gate))
    ceiling = main.arms["CEIL"]
    if isinstance(ceiling, Omitted):
        reasons.append(f"what the evaluator can recognise is unknown: {ceiling.reason}")
    elif ceiling.value < primary.ceiling:
        reasons.append(
            f"the evaluator scores real images of the victim's classes {_show(ceiling)}, under {primary.ceiling:.0%}"
        )
    detectable = minimum_detectable_effect(difference)
    if detectable > primary.resolution:
        reasons.append(
            f"over {difference.cells} cells (classes x seeds) only a leakage of {detectable:.0%} would have been "
            f"found with 80 % probability; {primary.resolution:.0%} is asked for"
        )
    return tuple(reasons)


def _sentence(outcome: Outcome, main: Leakage, attacks: list[str]) -> str:
    if outcome == "inconclusive":
        return f"Inconclusive: {main.attack} at round {main.round} allows no verdict; see the reasons."
    assert isinstance(main.leakage, Estimate)
    if outcome == "leak":
        return (
            f"Leak: {main.attack} at round {main.round} shows {_show(main.leakage)} of the victim's classes "
            "beyond what the same attack shows without the victim."
        )
    return (
        f"No leak detected, relative to these attacks: {', '.join(attacks)}. {main.attack} at round "
        f"{main.round} would have shown a leakage of {minimum_detectable_effect(main.leakage):.0%} with 80 % "
        "probability."
    )


def _show(found: Estimate) -> str:
    return f"{found.value:.0%} [{found.low:.0%}, {found.high:.0%}]"


def _point(leakage: Leakage, gates: Mapping[int, Gate], adjusted: Mapping[tuple[str, int], float]) -> Point:
    gate = gates.get(leakage.round)
    difference = leakage.leakage
    above = _above_controls(leakage)
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
    found = cells(scores, "A", attack, server_round, MEMBER_METRIC)
    return _interval(found if isinstance(found, Omitted) else estimate(found, random, draws))
