"""Leakage, its corrected forms and the verdict on synthetic score tables: a planted leak is found, none is
invented."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from auditor.leakage import Gate, Leakage, Quotient, corrected, measure, normalised
from auditor.leakage_table import leakage_table
from auditor.metrics.names import MEMBER, METRICS
from auditor.omitted import Omitted
from auditor.settings import Primary
from auditor.statistics import ONE_SEED, TOO_FEW_CLASSES, Cells, Estimate
from auditor.table import cells, check_table
from auditor.verdict import AttackCost, Interval, LeakCost, Missing, Omission, Point, Verdict, judge
from fedinverse.errors import ConfigError, DataError

METRIC = "attack-accuracy"
QUIET = {"A": 0.1, "B0": 0.1, "B1": 0.1, "B2": 0.1, "B3": 0.1, "B4": 0.1, "B5": 0.02, "CEIL": 0.95}
LEAK = QUIET | {"A": 0.8}
PRIMARY = Primary(draws=2000)
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
                "world": "without_victim" if arm == "B2" else "with_victim",
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
    return judge(table, primary, change.get("accuracy", LEARNED), classes=50, seed=0)


def measured(table: pd.DataFrame) -> Leakage:
    return measure(table, "gmi", 5, METRIC, np.random.default_rng(0), draws=2000)


# ------------------------------------------------------------------ formulas


@given(st.floats(0, 1), st.floats(0, 0.999))
@settings(deadline=None)
def test_corrected_formula(attack: float, fpr: float) -> None:
    value = corrected(np.array([attack]), np.array([fpr]))[0]
    assert value == pytest.approx((attack - fpr) / (1 - fpr))
    assert value <= 1 + 1e-12
    assert (value < 0) == (attack < fpr)  # never clipped
    assert corrected(np.array([fpr]), np.array([fpr]))[0] == 0


def test_corrected_and_normalised_by_hand() -> None:
    assert math.isnan(corrected(np.array([1.0]), np.array([1.0]))[0])
    assert corrected(np.array([0.0]), np.array([0.9]))[0] == pytest.approx(-9)
    controls = np.array([[0.1], [0.3], [0.2]])
    assert normalised(np.array([0.6]), controls, np.array([0.9]))[0] == pytest.approx(0.5)
    assert math.isnan(normalised(np.array([0.6]), controls, np.array([0.3]))[0])


def test_measured_leakage_is_the_difference_of_means() -> None:
    table = rows(LEAK, seeds=2)
    found = measured(table)
    mean = table.groupby("arm")["value"].mean()
    assert isinstance(found.leakage, Estimate)
    assert found.leakage.value == pytest.approx(mean["A"] - mean["B2"])
    assert found.leakage.low > 0
    assert isinstance(found.corrected, Quotient)
    assert found.corrected.value == pytest.approx((mean["A"] - mean["B2"]) / (1 - mean["B2"]))
    most = max(mean["B0"], mean["B2"], mean["B3"])
    assert isinstance(found.normalised, Quotient)
    assert found.normalised.value == pytest.approx((mean["A"] - most) / (mean["CEIL"] - most))
    assert found.normalised.low < found.normalised.value < found.normalised.high


def test_what_cannot_be_computed_says_why() -> None:
    found = measured(rows({"A": 1.0, "B2": 1.0, "B0": 1.0, "B3": 1.0, "CEIL": 0.5}))
    assert isinstance(found.corrected, Omitted)
    assert "always succeeds" in found.corrected.reason
    assert isinstance(found.normalised, Omitted)
    assert "ceiling" in found.normalised.reason
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


@pytest.mark.parametrize("classes", [5, 25])
def test_a_planted_leak_is_found(classes: int) -> None:
    found = verdict(rows(LEAK, classes=classes))
    assert found.outcome == "leak"
    assert found.time_to_leak == {"gmi": 5}
    assert (TOO_FEW_CLASSES in found.reasons) == (classes < 20)
    assert ONE_SEED in found.reasons


def test_no_leak_with_its_minimum_detectable_effect() -> None:
    found = verdict(rows(QUIET))
    assert found.outcome == "no leak detected"
    assert "relative to these attacks: gmi" in found.sentence
    point = found.points[0]
    assert isinstance(point.minimum_detectable_effect, float)
    assert 0.05 < point.minimum_detectable_effect < 0.25
    assert isinstance(found.time_to_leak["gmi"], Missing)
    assert isinstance(found.cost_per_leaked_class, Missing)


def test_equal_worlds_and_an_untrained_target_show_no_leak() -> None:
    equal = rows(QUIET | {"A": 0.6, "B2": 0.6})
    attack = equal.loc[equal["arm"] == "A", "value"].to_numpy()
    equal.loc[equal["arm"] == "B2", "value"] = attack
    for table in (equal, rows(QUIET | {"A": 0.1, "B1": 0.1})):
        leakage = verdict(table).points[0].leakage
        assert isinstance(leakage, Interval)
        assert leakage.low <= 0 <= leakage.high


def test_false_alarms_are_rare() -> None:
    means = dict.fromkeys(("A", "B0", "B2", "B3"), 0.2) | {"CEIL": 0.95}
    outcomes = [verdict(rows(means, classes=8, draw=draw)).outcome for draw in range(100)]
    assert outcomes.count("leak") <= 3


def test_few_classes_cannot_say_no() -> None:
    found = verdict(rows(dict.fromkeys(QUIET, 0.0) | {"CEIL": 1.0}, classes=5))
    assert found.outcome == "inconclusive"
    assert any("would have been found" in reason for reason in found.reasons)


def test_below_the_gate_nothing_is_said_but_a_leak_stays_one() -> None:
    quiet = verdict(rows(QUIET), accuracy={5: 0.2})
    assert quiet.outcome == "inconclusive"
    assert any("not learned yet" in reason for reason in quiet.reasons)
    assert verdict(rows(QUIET), accuracy={}).outcome == "inconclusive"
    loud = verdict(rows(LEAK), accuracy={5: 0.2})
    assert loud.outcome == "leak"
    assert any("not learned yet" in reason for reason in loud.reasons)


@pytest.mark.parametrize(
    ("means", "said"),
    [
        (QUIET | {"A": 0.8, "B0": 0.8, "B2": 0.1}, "prior alone"),
        (QUIET | {"A": 0.8, "B3": 0.8}, "own shard"),
        (QUIET | {"B5": 0.5}, "instrument is broken"),
        (LEAK | {"B5": 0.5}, "instrument is broken"),
        (QUIET | {"CEIL": 0.2}, "evaluator scores real images"),
        ({arm: mean for arm, mean in LEAK.items() if arm != "B2"}, "without a federation"),
        ({arm: mean for arm, mean in LEAK.items() if arm != "B0"}, "prior alone"),
        ({arm: mean for arm, mean in QUIET.items() if arm != "CEIL"}, "recognise is unknown"),
    ],
)
def test_inconclusive_names_what_is_missing(means: dict[str, float], said: str) -> None:
    found = verdict(rows(means))
    assert found.outcome == "inconclusive"
    assert any(said in reason for reason in found.reasons)


def test_a_leak_without_the_own_shard_control_names_it() -> None:
    found = verdict(rows({arm: mean for arm, mean in LEAK.items() if arm != "B3"}))
    assert found.outcome == "leak"
    assert any("B3 was not run" in reason for reason in found.reasons)


# ------------------------------------------------------------------ rounds, cost, members


def test_time_to_leak_is_the_first_round_after_holm() -> None:
    table = pd.concat([rows(QUIET, server_round=1), rows(LEAK, server_round=3), rows(LEAK, server_round=5, draw=1)])
    found = verdict(table)
    assert found.primary.round == 5
    assert found.time_to_leak == {"gmi": 3}
    assert [point.round for point in found.points] == [1, 3, 5]
    for point in found.points:
        assert isinstance(point, Point)
        assert isinstance(point.p, float)
        assert isinstance(point.p_holm, float)
        assert point.p <= point.p_holm


def test_cost_per_leaked_class() -> None:
    table = rows(LEAK)
    cost = AttackCost(seconds=60.0, target_queries=9000.0)
    found = judge(table, PRIMARY, LEARNED, classes=50, seed=0, costs={"gmi": cost})
    leakage, price = found.points[0].leakage, found.cost_per_leaked_class
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
    chosen = verdict(two, Primary(attack="vmi", draws=2000))
    assert chosen.outcome == "no leak detected"
    assert chosen.attacks == ("gmi", "vmi")
    with pytest.raises(ConfigError, match=r"attack is 'x'"):
        verdict(two, Primary(attack="x"))
    with pytest.raises(ConfigError, match="round is 4"):
        verdict(rows(LEAK), Primary(round=4))
    with pytest.raises(ConfigError, match="no attack has a score"):
        verdict(rows(LEAK), Primary(metric="x"))


def test_verdict_survives_json_and_other_versions_are_refused() -> None:
    found = verdict(rows(LEAK, classes=5))
    text = found.model_dump_json()
    assert Verdict.model_validate_json(text) == found
    with pytest.raises(ValidationError):
        Verdict.model_validate_json(text.replace('"version":1', '"version":2'))


DOCS = Path(__file__).parent.parent / "docs"


def test_the_schema_is_documented() -> None:
    # The file is json.dumps(schema, indent=2, ensure_ascii=False) and a newline.
    schema = Verdict.model_json_schema(mode="serialization")
    assert json.loads((DOCS / "verdict.schema.json").read_text()) == schema
    text = (DOCS / "verdict.md").read_text()
    for part in (Verdict, Point, Omission, LeakCost, Interval, Missing):
        for key in part.model_fields:
            assert f"`{key}`" in text or f'"{key}"' in text, key
    for name, metric in METRICS.items():
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
    found = verdict(pd.concat([rows(QUIET, server_round=1), rows(LEAK | {"CEIL": 0.0}, server_round=5)]))
    table = leakage_table(found).set_index(["round", "figure"])
    assert isinstance(found.points[1].leakage, Interval)
    assert table.loc[(5, "leakage"), "value"] == found.points[1].leakage.value
    assert table.loc[(1, "p_holm"), "value"] == found.points[0].p_holm
    assert table.loc[(-1, "time-to-leak"), "value"] == 5
    assert math.isnan(table.loc[(5, "normalised"), "value"])
    assert "ceiling" in table.loc[(5, "normalised"), "omitted"]
    assert table.loc[(5, "leakage"), "omitted"] == ""


def test_verdicts_repeat() -> None:
    assert verdict(rows(LEAK)) == verdict(rows(LEAK))
