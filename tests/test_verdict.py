"""Leakage, its corrected forms and the verdict on synthetic score tables: a planted leak is found, none is
invented."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from auditor.arms import ARMS
from auditor.judgement import AttackCost, judge
from auditor.leakage import Gate, Leakage, measure
from auditor.leakage_table import leakage_table
from auditor.metrics.names import COPY_GUARD, MEMBER, METRICS, RESEMBLANCE
from auditor.omitted import Omitted
from auditor.settings import Primary
from auditor.statistics import FEW_CLASSES, ONE_RUN, Cells, Estimate
from auditor.table import cells, check_table
from auditor.verdict import (
    AttributionReport,
    Interval,
    LeakCost,
    Missing,
    Omission,
    Point,
    RunDeviation,
    Verdict,
    read_verdict,
)
from fedinverse.errors import ConfigError, DataError, IntegrityError

METRIC = "attack-accuracy"
QUIET = {"A": 0.1, "B0": 0.1, "B1": 0.1, "B2": 0.1, "B3": 0.1, "B4": 0.1, "B5": 0.02, "CEIL": 0.95}
LEAK = QUIET | {"A": 0.8}
PRIMARY = Primary(metric=METRIC)
LEARNED = {1: 0.9, 5: 0.9}


def rows(
    means: dict[str, float],
    *,
    classes: int = 25,
    seeds: int = 1,
    server_round: int = 5,
    attack: str = "gmi",
    metric: str = METRIC,
    draw: int = 0,
) -> pd.DataFrame:
    """A score table: five reconstructions per class, each a success with the arm's mean."""
    random = np.random.default_rng(draw)
    return pd.DataFrame(
        [
            {
                "seed": seed,
                "world": "without_victim" if ARMS[arm].lacks_victim else "with_victim",
                "round": server_round,
                "arm": arm,
                "attack": attack,
                "label": label,
                "metric": metric,
                "value": random.binomial(5, mean) / 5,
                "count": 5,
            }
            for seed in range(seeds)
            for arm, mean in means.items()
            for label in range(classes)
        ]
    )


def verdict(table: pd.DataFrame, primary: Primary = PRIMARY, **change: dict[int, float]) -> Verdict:
    return judge(table, primary, change.get("accuracy", LEARNED), classes=50)


def measured(table: pd.DataFrame) -> Leakage:
    return measure(table, "gmi", 5, METRIC, 0.15)


# ------------------------------------------------------------------ formulas


def test_measured_leakage_is_the_difference_of_means() -> None:
    table = rows(LEAK, seeds=2)
    main = measured(table)
    mean = table.groupby("arm")["value"].mean()
    assert isinstance(main.leakage, Estimate)
    assert main.leakage.value == pytest.approx(mean["A"] - mean["B2"])
    assert main.leakage.low > 0
    assert isinstance(main.corrected, Estimate)
    assert main.corrected.value == pytest.approx((mean["A"] - mean["B2"]) / (1 - mean["B2"]))
    most = max(mean["B0"], mean["B2"], mean["B3"])
    assert isinstance(main.normalised, Estimate)
    assert main.normalised.value == pytest.approx((mean["A"] - most) / (mean["CEIL"] - most))
    assert main.normalised.low < main.normalised.value < main.normalised.high


def test_what_cannot_be_computed_says_why() -> None:
    main = measured(rows({"A": 1.0, "B2": 1.0, "B0": 1.0, "B3": 1.0, "CEIL": 0.5}))
    assert isinstance(main.corrected, Omitted)
    assert "always succeeds" in main.corrected.reason
    assert isinstance(main.normalised, Omitted)
    assert "ceiling" in main.normalised.reason
    lacking = measured(rows({"A": 0.5}))
    assert isinstance(lacking.leakage, Omitted)
    assert "B2" in lacking.leakage.reason


def test_gate_never_says_safe() -> None:
    assert str(Gate(0.2, 0.5)).startswith("not learned yet")
    assert Gate(0.5, 0.5).learned
    assert "safe" not in str(Gate(0.9, 0.5))


# ------------------------------------------------------------------ the table


def test_controls_without_a_round_are_found_at_any() -> None:
    table = pd.concat(
        [
            rows({"A": 0.5, "B2": 0.1}),
            rows({"B1": 0.1}, server_round=0),
            rows({"CEIL": 0.9}, server_round=0, attack=""),
        ]
    )
    assert isinstance(cells(table, "B1", "gmi", 5, METRIC), Cells)
    assert isinstance(cells(table, "CEIL", "gmi", 5, METRIC), Cells)
    assert isinstance(cells(table, "A", "gmi", 4, METRIC), Omitted)
    assert isinstance(cells(table, "B2", "gmi", 1, METRIC), Omitted)


def test_b2_is_read_from_the_world_without_the_victim_alone() -> None:
    table = rows({"A": 0.5, "B2": 0.1})
    table["world"] = "with_victim"
    assert isinstance(cells(table, "B2", "gmi", 5, METRIC), Omitted)


def test_malformed_tables_are_refused() -> None:
    table = rows(QUIET)
    with pytest.raises(DataError, match="no column value"):
        check_table(table.drop(columns="value"))
    with pytest.raises(DataError, match="B9"):
        check_table(table.assign(arm="B9"))
    with pytest.raises(DataError, match="two rows for seed 0"):
        check_table(pd.concat([table, table.head(1)]))
    with pytest.raises(DataError, match="infinite"):
        check_table(table.assign(value=math.inf))


def test_rows_in_another_order_change_nothing() -> None:
    table = rows(LEAK)
    assert verdict(table) == verdict(table.sample(frac=1, random_state=0))


# ------------------------------------------------------------------ outcomes


def exactly(
    scores: dict[str, float | list[float]], *, classes: int = 5, seeds: int = 1, count: int = 10
) -> pd.DataFrame:
    """A score table without luck: every class of an arm has its share, or each its own."""
    table = pd.concat([rows({arm: 0.0}, classes=classes, seeds=seeds) for arm in scores], ignore_index=True)
    for arm, share in scores.items():
        each = share if isinstance(share, list) else [share] * classes
        table.loc[table["arm"] == arm, "value"] = each * seeds
    return table.assign(count=count)


def looks(table: pd.DataFrame, resemblance: float, guard: float) -> pd.DataFrame:
    """Add what E2 says of the attack's images."""
    attack = table[table["arm"] == "A"]
    added = [(RESEMBLANCE, resemblance), (COPY_GUARD, guard)]
    return pd.concat([table, *(attack.assign(metric=metric, value=value) for metric, value in added)])


NONE = dict.fromkeys(("B0", "B1", "B2", "B3", "B4", "B5"), 0.0) | {"CEIL": 1.0}
TENTH = dict.fromkeys(("B0", "B1", "B2", "B3", "B4"), 0.1) | {"B5": 0.0, "CEIL": 1.0}
SCENARIOS: dict[str, tuple[dict[str, float | list[float]], str, str]] = {
    "a public image does as well": (NONE | {"A": 1.0, "B4": 1.0}, "selected", "public images"),
    "a public image does better": (NONE | {"A": 0.64, "B4": 1.0}, "selected", "public images"),
    "the evaluator cannot read": (NONE | {"A": 0.48, "CEIL": 0.12}, "inconclusive", "only 12%"),
    "an untrained model does as well": (NONE | {"A": 1.0, "B1": 1.0}, "inconclusive", "untrained model (B1)"),
    "a tenth without any spread": (TENTH | {"A": 0.2}, "inconclusive", "is not excluded"),
    "one image of fifty more": (TENTH | {"A": [0.2, 0.2, 0.2, 0.2, 0.3]}, "inconclusive", "is not excluded"),
    "four of five classes": (NONE | {"A": [1.0, 1.0, 1.0, 1.0, 0.0]}, "inconclusive", "(p 0.125)"),
    "nothing anywhere": (NONE | {"A": 0.0}, "inconclusive", "a leakage of 45% is not excluded"),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenarios_of_one_run_with_five_classes(scenario: str) -> None:
    scores, outcome, reason = SCENARIOS[scenario]
    judged = verdict(exactly(scores))
    assert judged.outcome == outcome
    assert any(reason in each for each in judged.reasons), judged.reasons
    assert bool(judged.settle) == (outcome == "inconclusive")
    assert judged.claim == "this run"


def test_hardly_more_than_the_controls_is_below_the_resolution() -> None:
    judged = verdict(exactly(TENTH | {"A": [0.11, 0.12, 0.11, 0.12, 0.12]}, count=100))
    assert judged.outcome == "below resolution"
    assert judged.sentence.startswith("Below the resolution in this run: gmi at round 5 shows 2%")
    three = verdict(exactly(TENTH | {"A": 0.3}, seeds=3))
    assert three.outcome == "below resolution"
    assert three.sentence.startswith("Below the resolution over 3 seeds")


def test_recognised_images_that_resemble_nothing_are_no_leak() -> None:
    table = exactly(NONE | {"A": 1.0})
    judged = verdict(looks(table, 0.0, 0.0))
    assert judged.outcome == "recognised only"
    assert judged.sentence.startswith("Recognised, but resembling nothing in this run: 100% of what gmi")
    few = verdict(looks(table, 0.6, 0.34))
    assert few.outcome == "leak"
    assert any(reason.startswith("copy guard 34%") for reason in few.reasons)
    assert not any("copy guard" in reason for reason in verdict(looks(table, 0.6, 0.8)).reasons)


def test_an_attack_that_shows_more_than_its_model_knows_is_marked() -> None:
    judged = verdict(exactly(NONE | {"A": 1.0}), accuracy={5: 0.05})
    assert judged.outcome == "leak"
    (mark,) = judged.marks
    assert mark.startswith("contradiction: the attack scores 100%, yet the model reads only 5%")
    assert mark in judged.reasons
    assert verdict(exactly(NONE | {"A": 1.0})).marks == ()


@pytest.mark.parametrize(("without", "outcome"), [(0.1, "selected"), (1.0, "inconclusive"), (0.9, "inconclusive")])
def test_public_images_count_as_selected_only_beyond_their_control(without: float, outcome: str) -> None:
    judged = verdict(exactly(NONE | {"A": 1.0, "B4": 1.0, "B4W": without}))
    assert judged.outcome == outcome
    if outcome == "inconclusive":
        assert judged.settle[0].startswith("a public set that looks less like the victim's classes")


def test_a_lead_over_public_images_that_is_large_but_not_shown_decides_nothing() -> None:
    judged = verdict(exactly(NONE | {"A": 1.0, "B4": [1.0, 0.0, 0.0, 0.0, 0.0]}))
    assert judged.outcome == "inconclusive"
    assert "neither inversion nor mere selection" in judged.reasons[0]


@pytest.mark.parametrize("classes", [5, 25])
def test_a_planted_leak_in_one_run(classes: int) -> None:
    judged = verdict(exactly(TENTH | {"A": 1.0}, classes=classes))
    assert judged.outcome == "leak"
    assert judged.sentence.startswith("Leak in this run: gmi at round 5 shows 90% [")
    assert judged.time_to_leak == {"gmi": 5}
    assert (FEW_CLASSES in judged.reasons) == (classes < 20)
    assert ONE_RUN in judged.reasons
    assert judged.between_runs == RunDeviation(deviation=0.15, control_worlds=1)


def test_several_seeds_speak_of_federations() -> None:
    judged = verdict(rows(LEAK, classes=5, seeds=3))
    assert judged.outcome == "leak"
    assert judged.sentence.startswith("Leak over 3 seeds: gmi at round 5 shows")
    assert judged.claim == "these classes over federations"
    assert isinstance(judged.between_runs, Missing)
    uneven = rows(LEAK, classes=5, seeds=3)
    uneven.loc[(uneven["arm"] == "A") & (uneven["seed"] == 2), "value"] = 0.1
    unsure = verdict(uneven)
    assert unsure.outcome == "inconclusive"
    assert re.fullmatch(r"about \d+ seeds at this spread \(3 now\)", unsure.settle[0])


def with_worlds(table: pd.DataFrame, shares: list[float]) -> pd.DataFrame:
    """Put several control worlds in place of one."""
    control = table[table["arm"] == "B2"]
    names = ["without_victim", *(f"without_victim-{number}" for number in range(1, len(shares)))]
    worlds = [control.assign(world=name, value=share) for name, share in zip(names, shares, strict=True)]
    return pd.concat([table[table["arm"] != "B2"], *worlds])


def test_control_worlds_measure_the_deviation_between_runs() -> None:
    table = exactly(TENTH | {"A": 0.6}, classes=25)
    assert verdict(table).outcome == "leak"
    steady = verdict(with_worlds(table, [0.1, 0.12, 0.08, 0.1, 0.1]))
    assert isinstance(steady.between_runs, RunDeviation)
    assert steady.between_runs.control_worlds == 5
    assert steady.between_runs.deviation == pytest.approx(np.std([0.1, 0.12, 0.08, 0.1, 0.1], ddof=1))
    assert steady.points[0].arms["B2"].value == pytest.approx(0.1)  # type: ignore[union-attr]
    unsteady = verdict(with_worlds(table, [0.0, 0.5, 0.1, 0.4, 0.0]))
    assert unsteady.outcome == "inconclusive"
    one, many = (each.points[0].leakage for each in (verdict(table), steady))
    assert isinstance(one, Interval)
    assert isinstance(many, Interval)
    assert many.high - many.low < one.high - one.low


def test_no_leak_is_said_with_what_is_excluded() -> None:
    judged = verdict(rows(QUIET))
    assert judged.outcome == "no leak detected"
    assert judged.sentence.startswith("No leak detected in this run, relative to these attacks: gmi. A leakage of more")
    assert isinstance(judged.points[0].minimum_detectable_effect, float)
    assert isinstance(judged.time_to_leak["gmi"], Missing)
    assert isinstance(judged.cost_per_leaked_class, Missing)
    assert verdict(rows(QUIET, classes=5, seeds=5)).outcome == "no leak detected"


def test_nothing_found_says_how_to_get_an_answer() -> None:
    judged = verdict(exactly(NONE | {"A": 0.0}))
    assert any("3 seeds or more" in way for way in judged.settle)
    assert any("more victim classes: 5 now, 11 or more" in way for way in judged.settle)
    assert (
        judged.sentence == "Inconclusive: gmi at round 5 allows no verdict; it would take 3 seeds or more ("
        "fedinverse sweep)."
    )
    assert verdict(exactly(NONE | {"A": 0.0}, classes=11)).outcome == "no leak detected"


def test_equal_worlds_and_an_untrained_target_show_no_leak() -> None:
    equal = rows(QUIET | {"A": 0.6, "B2": 0.6})
    attack = equal.loc[equal["arm"] == "A", "value"].to_numpy()
    equal.loc[equal["arm"] == "B2", "value"] = attack
    for table in (equal, rows(QUIET | {"A": 0.1, "B1": 0.1})):
        leakage = verdict(table).points[0].leakage
        assert isinstance(leakage, Interval)
        assert leakage.low <= 0 <= leakage.high


def test_below_the_gate_nothing_is_said_but_a_leak_stays_one() -> None:
    quiet = verdict(rows(QUIET), accuracy={5: 0.2})
    assert quiet.outcome == "inconclusive"
    assert any("not learned yet" in reason for reason in quiet.reasons)
    assert verdict(rows(QUIET), accuracy={}).outcome == "inconclusive"
    loud = verdict(rows(LEAK), accuracy={5: 0.2})
    assert loud.outcome == "leak"
    assert any("not learned yet" in reason for reason in loud.reasons)


@pytest.mark.parametrize(
    ("means", "reason"),
    [
        (QUIET | {"A": 0.8, "B0": 0.8, "B2": 0.1}, "prior alone"),
        (QUIET | {"A": 0.8, "B3": 0.8}, "own shard"),
        (QUIET | {"A": 0.8, "B1": 0.8}, "untrained model"),
        (QUIET | {"B5": 0.5}, "instrument is broken"),
        (LEAK | {"B5": 0.5}, "instrument is broken"),
        (LEAK | {"CEIL": 0.2}, "of real images"),
        ({arm: mean for arm, mean in LEAK.items() if arm != "B2"}, "without a federation"),
        ({arm: mean for arm, mean in LEAK.items() if arm != "B0"}, "prior alone"),
        ({arm: mean for arm, mean in LEAK.items() if arm != "CEIL"}, "recognise is unknown"),
    ],
)
def test_inconclusive_names_what_is_missing(means: dict[str, float], reason: str) -> None:
    judged = verdict(rows(means))
    assert judged.outcome == "inconclusive"
    assert any(reason in each for each in judged.reasons)
    assert judged.settle


@pytest.mark.parametrize("arm", ["B1", "B3", "B4"])
def test_a_leak_names_the_control_that_was_not_run(arm: str) -> None:
    judged = verdict(rows({each: mean for each, mean in LEAK.items() if each != arm}))
    assert judged.outcome == "leak"
    assert any(f"{arm} was not run" in reason for reason in judged.reasons)


# ------------------------------------------------------------------ rounds, cost, members


def test_time_to_leak_is_the_round_from_which_on_every_round_leaks() -> None:
    table = pd.concat([rows(QUIET, server_round=1), rows(LEAK, server_round=3), rows(LEAK, server_round=5, draw=1)])
    result = verdict(table)
    assert result.primary.round == 5
    assert result.time_to_leak == {"gmi": 3}
    assert [(point.round, point.outcome) for point in result.points] == [
        (1, "no leak detected"),
        (3, "leak"),
        (5, "leak"),
    ]
    gap = pd.concat([rows(LEAK, server_round=1), rows(QUIET, server_round=3), rows(LEAK, server_round=5, draw=1)])
    assert verdict(gap).time_to_leak == {"gmi": 5}
    ended = verdict(pd.concat([rows(LEAK, server_round=1), rows(QUIET, server_round=5)])).time_to_leak["gmi"]
    assert ended == Missing(omitted="round 5, the last attacked, is no leak")
    for point in result.points:
        assert isinstance(point, Point)
        assert isinstance(point.p, float)
        assert isinstance(point.p_holm, float)
        assert point.p <= point.p_holm


def test_cost_per_leaked_class() -> None:
    table = rows(LEAK)
    cost = AttackCost(seconds=60.0, target_queries=9000.0)
    result = judge(table, PRIMARY, LEARNED, classes=50, costs={"gmi": cost})
    leakage, price = result.points[0].leakage, result.cost_per_leaked_class
    assert isinstance(leakage, Interval)
    assert isinstance(price, LeakCost)
    assert price.classes_leaked == pytest.approx(25 * leakage.value)
    assert price.seconds * price.classes_leaked == pytest.approx(60)
    assert isinstance(verdict(table).cost_per_leaked_class, Missing)


def test_member_lift_enters_from_the_table() -> None:
    table = pd.concat([rows(LEAK), rows({"A": 0.9}, metric=MEMBER)])
    lift = verdict(table).member_lift
    assert isinstance(lift, Interval)
    assert lift.low > 0.5
    assert isinstance(verdict(rows(LEAK)).member_lift, Missing)


# ------------------------------------------------------------------ configuration and schema


def test_the_primary_attack_and_round_are_never_guessed() -> None:
    two = pd.concat([rows(LEAK), rows(QUIET, attack="vmi")])
    with pytest.raises(ConfigError, match="must name one of gmi, vmi"):
        verdict(two)
    chosen = verdict(two, Primary(attack="vmi", metric=METRIC))
    assert chosen.outcome == "no leak detected"
    assert chosen.attacks == ("gmi", "vmi")
    with pytest.raises(ConfigError, match=r"attack is 'x'"):
        verdict(two, Primary(attack="x", metric=METRIC))
    with pytest.raises(ConfigError, match="round is 4"):
        verdict(rows(LEAK), Primary(round=4, metric=METRIC))
    with pytest.raises(ConfigError, match="no attack has a score"):
        verdict(rows(LEAK), Primary(metric="x"))


def test_a_written_verdict_is_read_and_other_versions_are_refused(tmp_path: Path) -> None:
    judged, path = verdict(rows(LEAK, classes=5)), tmp_path / "verdict.json"
    path.write_text(judged.model_dump_json())
    assert read_verdict(path) == judged
    for damage, complaint in (('"version":3', "version 3, known are 1 and 2"), ('"version":2,"x":1', "'x'")):
        path.write_text(judged.model_dump_json().replace('"version":2', damage))
        with pytest.raises(IntegrityError, match=complaint):
            read_verdict(path)


def test_a_verdict_of_version_1_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = Path(__file__).parent / "corpus" / "verdict-1.json"
    written, judged = json.loads(path.read_text()), read_verdict(path)
    assert (judged.version, judged.rules, judged.claim) == (2, 1, "this run")
    assert (judged.outcome, judged.sentence) == (written["outcome"], written["sentence"])
    assert judged.main.outcome == "leak"
    assert judged.main.leakage == Interval(**written["points"][0]["leakage"] | {"marks": judged.main.leakage.marks})  # type: ignore[union-attr]
    assert judged.main.leads["B4"] == judged.between_runs == Missing(omitted="a verdict of version 1 does not say")
    damaged = tmp_path / "verdict.json"
    damaged.write_text(json.dumps(written | {"points": "none"}))
    with pytest.raises(IntegrityError, match="audit the run again"):
        read_verdict(damaged)


DOCS = Path(__file__).parent.parent / "docs"


def test_the_schema_is_documented() -> None:
    # The file is json.dumps(schema, indent=2, ensure_ascii=False) and a newline.
    schema = Verdict.model_json_schema(mode="serialization")
    assert json.loads((DOCS / "verdict.schema.json").read_text()) == schema
    text = (DOCS / "verdict.md").read_text()
    for part in (Verdict, Point, AttributionReport, Omission, LeakCost, Interval, Missing, RunDeviation):
        for key in part.model_fields:
            assert f"`{key}`" in text or f'"{key}"' in text, key
    for name in METRICS.registered():
        metric = METRICS.get(name)
        row = (
            f"| `{name}` | {'-1' if metric.whole else 'class'} | {'yes' if metric.share else 'no'} | {metric.meaning} |"
        )
        assert row in text


def test_a_written_verdict_has_the_documented_keys() -> None:
    schema = Verdict.model_json_schema(mode="serialization")
    written = json.loads(verdict(rows(LEAK)).model_dump_json())
    assert set(written) == set(schema["properties"])
    assert set(written["points"][0]) == set(schema["$defs"]["Point"]["properties"])


def test_leakage_as_a_tidy_table() -> None:
    result = verdict(pd.concat([rows(QUIET, server_round=1), rows(LEAK | {"CEIL": 0.0}, server_round=5)]))
    table = leakage_table(result).set_index(["round", "figure"])
    assert isinstance(result.points[1].leakage, Interval)
    assert table.loc[(5, "leakage"), "value"] == result.points[1].leakage.value
    assert table.loc[(1, "p_holm"), "value"] == result.points[0].p_holm
    assert "is no leak" in table.loc[(-1, "time-to-leak"), "omitted"]
    assert leakage_table(verdict(rows(LEAK))).set_index("figure").loc["time-to-leak", "value"] == 5
    assert math.isnan(table.loc[(5, "normalised"), "value"])
    assert "ceiling" in table.loc[(5, "normalised"), "omitted"]
    assert table.loc[(5, "leakage"), "omitted"] == ""


def test_verdicts_repeat() -> None:
    assert verdict(rows(LEAK)) == verdict(rows(LEAK))
