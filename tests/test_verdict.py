"""Verdicts on synthetic score tables: a planted leak is found, none is invented."""

import re

import numpy as np
import pandas as pd
import pytest
from score_tables import LEAK, QUIET, rows, verdict

from auditor.arms import ARMS
from auditor.metrics.names import COPY_GUARD, RESEMBLANCE
from auditor.statistics import FEW_CLASSES, ONE_RUN
from auditor.verdict import (
    Interval,
    Missing,
    RunDeviation,
)


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
    assert judged.reasons[0].startswith("in this run the attack beats"), (
        "its interval holds 0: of another run it says nothing"
    )
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
        (QUIET | {"B5": 0.5}, "evaluator cannot be trusted"),
        (LEAK | {"B5": 0.5}, "evaluator cannot be trusted"),
        (LEAK | {"CEIL": 0.2}, "of real images"),
        ({arm: mean for arm, mean in LEAK.items() if arm != "B2"}, "a federation without them can say"),
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
    assert any(f"“{ARMS[arm].name}” was not run" in reason for reason in judged.reasons)
