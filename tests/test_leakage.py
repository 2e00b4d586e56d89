"""Leakage on synthetic score tables: its forms, what is read of the table, rounds, cost and members."""

import math

import pandas as pd
import pytest
from score_tables import LEAK, LEARNED, METRIC, PRIMARY, QUIET, measured, rows, verdict

from auditor.judgement import judge
from auditor.leakage import Gate
from auditor.metrics.names import MEMBER
from auditor.omitted import Omitted
from auditor.statistics import Cells, Estimate
from auditor.table import cells, check_table
from auditor.verdict import (
    AttackCost,
    Interval,
    LeakCost,
    Missing,
    Point,
)
from fedinverse.errors import DataError


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
    result = judge(table, PRIMARY, LEARNED, classes=50, costs={("gmi", 5): cost})
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
