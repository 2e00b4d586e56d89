"""From a tidy score table to the verdict.

The primary attack, round and metric are fixed in the configuration before the run; the outcome speaks of them alone
(``auditor.decision``).
"""

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from auditor.decision import Case, Outcome, decide, sentence
from auditor.leakage import FURTHER, Gate, measure
from auditor.omitted import Omitted
from auditor.settings import Primary
from auditor.statistics import Estimate, holm, minimum_detectable_effect
from auditor.table import attacks_of, cells_of_attack, check_table, primary_of, rounds_of
from auditor.verdict import (
    EVERY_METRIC,
    AttackCost,
    AttributionReport,
    GateReport,
    LeakCost,
    Missing,
    Omission,
    Point,
    PrimaryReport,
    RunDeviation,
    Verdict,
    Whose,
    as_written,
)


def judge(
    scores: pd.DataFrame,
    primary: Primary,
    accuracy: Mapping[int, float],
    *,
    classes: int,
    costs: Mapping[tuple[str, int], AttackCost] | None = None,
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
        costs: attack and round -> cost of one run on that captured model; missing ones are omitted with a reason.
        omitted: what the table lacks, and why.
        marks: of the run (``auditor.marks``).

    Raises:
        DataError: malformed table.
        ConfigError: the primary attack or round is not in the table, or must be chosen.
    """
    check_table(scores)
    attack, server_round = primary_of(scores, primary)
    attacks = attacks_of(scores, primary.metric)
    absent = {arm: each.reason for each in omitted if each.metric == EVERY_METRIC for arm in each.arms}
    cases: dict[tuple[str, int], Case] = {}
    adjusted: dict[tuple[str, int], float] = {}  # Holm's, within each attack over its rounds
    for name in attacks:
        p = {}
        for each in rounds_of(scores, name, primary.metric):
            read = cells_of_attack(scores, name, each, primary.metric, FURTHER)
            main = measure(read, primary.between_runs)
            if isinstance(main.leakage, Estimate):
                p[name, each] = main.leakage.p
            elif "B2" in absent:
                main = replace(main, leakage=Omitted(absent["B2"]))
            gate = Gate(accuracy[each], primary.gate) if each in accuracy else None
            cases[name, each] = Case(main, gate, primary, classes)
        adjusted |= dict(zip(p, holm(list(p.values())), strict=True))
    points = tuple(_point(case, adjusted.get(key)) for key, case in cases.items())
    case = cases[attack, server_round]
    decision = decide(case)
    known = case.main.arms["A"]
    assert isinstance(known, Estimate)
    return Verdict(
        outcome=decision.outcome,
        claim="this run" if known.seeds == 1 else "these classes over federations",
        sentence=sentence(decision, case, attacks),
        reasons=decision.reasons,
        settle=decision.settle,
        primary=PrimaryReport(attack=attack, round=server_round, metric=primary.metric, resolution=primary.resolution),
        seeds=known.seeds,
        classes=known.classes,
        between_runs=(
            RunDeviation(deviation=case.main.between.deviation, control_worlds=case.main.between.worlds)
            if known.seeds == 1
            else Missing(omitted="several seeds show it themselves")
        ),
        points=points,
        time_to_leak=_time_to_leak(points),
        cost_per_leaked_class=LeakCost.of(decision.outcome, case.main, (costs or {}).get((attack, server_round))),
        member_lift=as_written(case.main.member_share),
        attacks=tuple(attacks),
        omitted=omitted,
        marks=(*marks, *([decision.mark] if decision.mark else [])),
    )


def _point(case: Case, p_holm: float | None) -> Point:
    main, gate, difference = case.main, case.gate, case.main.leakage
    missing = Missing(omitted=difference.reason) if isinstance(difference, Omitted) else None
    outcome = decide(case).outcome
    return Point(
        attack=main.attack,
        round=main.round,
        outcome=outcome,
        gate=(
            Missing(omitted=f"no accuracy of round {main.round}")
            if gate is None
            else GateReport(accuracy=gate.accuracy, threshold=gate.threshold, learned=gate.learned, text=str(gate))
        ),
        arms={arm: as_written(each) for arm, each in main.arms.items()},
        leakage=as_written(difference),
        leads={arm: as_written(each) for arm, each in main.leads.items()},
        selection=as_written(main.selection),
        corrected=as_written(main.corrected),
        normalised=as_written(main.normalised),
        p=missing or difference.p,  # type: ignore[union-attr]
        p_holm=missing or p_holm,  # type: ignore[arg-type]
        minimum_detectable_effect=missing or minimum_detectable_effect(difference),  # type: ignore[arg-type]
        attribution=_attribution(case, outcome),
    )


def _attribution(case: Case, outcome: Outcome) -> AttributionReport | Missing:
    whose = case.main.attribution
    if whose is None:
        return Missing(omitted="the victim alone holds its classes, so that the leakage is the victim's")
    his_images = whose.nearer or whose.copies_shown
    answers: dict[Outcome, Whose] = {
        "the class, not the client": "the class, not the client",
        "no leak detected": "neither",
    }
    return AttributionReport(
        answer="the client" if his_images and outcome != "inconclusive" else answers.get(outcome, "unknown"),
        others=as_written(whose.others),
        nobody=as_written(whose.nobody),
        without=as_written(whose.without),
        resemblance={name: as_written(each) for name, each in whose.resembling.items()},
        copied={
            name: Missing(omitted=each.reason) if isinstance(each, Omitted) else each
            for name, each in whose.copied.items()
        },
    )


def _time_to_leak(points: tuple[Point, ...]) -> dict[str, int | Missing]:
    """Return, for every attack, the round from which on every attacked round is a leak.

    Rounds are tested from the last backwards and the first that is none ends it, so no adjustment for several rounds is
    due (a fixed sequence of tests, Maurer, Hothorn and Lehmacher 1995).
    """
    since: dict[str, int | Missing] = {}
    ended: set[str] = set()
    for point in sorted(points, key=lambda point: -point.round):
        since.setdefault(point.attack, Missing(omitted=f"round {point.round}, the last attacked, is no leak"))
        if point.outcome != "leak":
            ended.add(point.attack)
        elif point.attack not in ended:
            since[point.attack] = point.round
    return dict(sorted(since.items()))
