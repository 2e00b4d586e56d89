"""Intervals, exact tests, Holm and the minimum detectable effect, against what they promise."""

import math
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from auditor.statistics import (
    FEW_CLASSES,
    FLOORED,
    ONE_RUN,
    BetweenRuns,
    Cells,
    Error,
    Floats,
    aligned,
    combine,
    consistent,
    contrast,
    difference,
    estimate,
    holm,
    minimum_detectable_effect,
    sign_flip_p,
    unseen,
    wilson,
)

COVERAGE = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "coverage.py"))


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def cells(values: Floats | list[list[float]], count: float = 10) -> Cells:
    table = np.asarray(values, np.float64)
    return Cells(table, np.full(table.shape, count), tuple(range(len(table))), tuple(range(table.shape[1])))


# ------------------------------------------------------------------ cells


def test_cells_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="seeds"):
        Cells(np.zeros((2, 3)), np.ones((2, 3)), (0,), (0, 1, 2))
    with pytest.raises(ValueError, match="counts"):
        Cells(np.zeros((1, 2)), np.ones((1, 3)), (0,), (0, 1))
    with pytest.raises(ValueError, match="without any class"):
        cells([[0.0, 1.0], [math.nan, math.nan]])
    with pytest.raises(ValueError, match="infinity"):
        cells([[math.inf]])


def test_alignment_keeps_the_classes_that_every_seed_and_arm_holds() -> None:
    a = Cells(np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), np.ones((2, 3)), (0, 1), (7, 8, 9))
    b = Cells(np.array([[10.0, math.nan], [20.0, 30.0]]), np.ones((2, 2)), (1, 0), (8, 9))
    both = aligned({"a": a, "b": b})
    assert both["a"].seeds == (0, 1)
    assert both["a"].labels == (8,)
    np.testing.assert_equal(both["b"].values, [[20], [10]])
    with pytest.raises(ValueError, match="share no seed"):
        aligned({"a": a, "c": Cells(np.ones((1, 1)), np.ones((1, 1)), (5,), (7,))})


# ------------------------------------------------------------------ intervals


def test_seeds_are_the_unit_of_several_seeds() -> None:
    values = np.array([[0.9, 0.1, 0.5], [0.7, 0.0, 0.2], [0.9, 0.3, 0.9]])
    result = estimate(cells(values, 1000))
    wanted = stats.ttest_1samp(values.mean(1), 0).confidence_interval(0.95)
    assert (result.low, result.high) == pytest.approx((max(wanted.low, 0), min(wanted.high, 1)))
    assert result.marks == ()
    # What is common to a class in all seeds is no luck: other classes, the same seed means, the same interval.
    shifted = estimate(cells(values + np.array([[0.05, 0.0, -0.05]]), 1000))
    assert (shifted.low, shifted.high) == pytest.approx((result.low, result.high))


def test_one_run_carries_the_deviation_between_runs() -> None:
    a, b = random(0).random((2, 1, 30))
    alone, compared = difference(cells(a), cells(b)), difference(cells(a), cells(b), BetweenRuns(0.15).error(2))
    wanted = stats.ttest_rel(a[0], b[0])
    assert alone.p == pytest.approx(wanted.pvalue, rel=1e-6)
    assert (alone.low, alone.high) == pytest.approx(tuple(wanted.confidence_interval(0.95)))
    between = stats.norm.ppf(0.975) * 0.15 * math.sqrt(2)
    assert compared.half_width() == pytest.approx(math.hypot(alone.half_width(), between))
    assert ONE_RUN in compared.marks
    several = difference(cells(np.repeat(a, 3, 0)), cells(np.repeat(b, 3, 0)), BetweenRuns(0.15).error(2))
    assert several.half_width() < alone.half_width()  # seeds show their deviation themselves: here none


def test_no_interval_is_narrower_than_the_noise_of_the_reconstructions() -> None:
    same = difference(cells([[0.2] * 5]), cells([[0.1] * 5]))
    assert FLOORED in same.marks
    assert same.low < 0 < same.high
    more = difference(cells([[0.22] * 5]), cells([[0.1] * 5]))
    assert more.half_width() == pytest.approx(same.half_width(), rel=0.05)  # not a jump to certainty
    three = estimate(cells([[1.0] * 5] * 3))
    assert 0.9 < three.low < 0.99
    assert three.high == 1


def test_intervals_stay_within_what_is_possible() -> None:
    assert difference(cells([[1.0] * 5]), cells([[0.0] * 5]), Error(1.0)).high == 1
    assert combine([cells([[1.0] * 5])], [2.0]).high > 2


@given(st.integers(0, 2**31 - 1), st.integers(1, 4), st.integers(2, 12))
@settings(max_examples=25, deadline=None)
def test_estimates_do_not_depend_on_the_order(seed: int, seeds: int, classes: int) -> None:
    values = random(seed).random((seeds, classes))
    mixed = values[random(seed + 1).permutation(seeds)][:, random(seed + 2).permutation(classes)]
    one, other = estimate(cells(values)), estimate(cells(mixed))
    assert (one.low, one.value, one.high) == pytest.approx((other.low, other.value, other.high))
    assert one.low <= one.value <= one.high
    assert one.marks == other.marks


def test_p_values_agree_with_intervals() -> None:
    for seed in range(30):
        a, b = random(seed).random((2, 1, 25))
        gap = difference(cells(a), cells(b), Error(0.05))
        assert (gap.low <= 0 <= gap.high) == (gap.p > 0.05)


@pytest.mark.parametrize(
    ("luck", "common", "skewed", "classes", "seeds", "worlds"),
    [(0.15, 0.2, False, 5, 1, 1), (0.15, 0.2, True, 20, 3, 1), (0.15, 0, False, 10, 1, 5), (0, 0.2, True, 5, 5, 1)],
)
def test_coverage_and_false_leaks(
    luck: float, common: float, *, skewed: bool, classes: int, seeds: int, worlds: int
) -> None:
    # The benchmark on fewer tables: of 300, three standard deviations below 95 % and above 5 %.
    coverage, false = COVERAGE["rates"](COVERAGE["World"](luck, common, skewed), classes, seeds, worlds, 300)
    assert coverage >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 300)
    assert false <= 0.05 + 3 * math.sqrt(0.95 * 0.05 / 300)


# ------------------------------------------------------------------ exact tests


def test_four_of_five_classes_against_none_is_mcnemars_eighth() -> None:
    four = difference(cells([[1.0, 1.0, 1.0, 1.0, 0.0]]), cells([[0.0] * 5]))
    assert four.p == pytest.approx(stats.binomtest(4, 4, 0.5).pvalue) == 0.125
    assert not four.above_zero
    assert FEW_CLASSES in four.marks
    five = difference(cells([[1.0] * 5]), cells([[0.0] * 5]))
    assert five.p == pytest.approx(1 / 16)
    assert five.above_zero
    above = cells([[0.11, 0.12, 0.11, 0.12, 0.12]], 100), cells([[0.1] * 5], 100)
    assert consistent(*above)
    assert not difference(*above).above_zero
    assert not consistent(*above[::-1])
    assert not difference(cells([[1.0] * 4]), cells([[0.0] * 4])).above_zero  # 1 / 16 one-sided at best


@given(st.lists(st.integers(-10, 10), min_size=2, max_size=8))
@settings(max_examples=40, deadline=None)
def test_sign_flips_agree_with_scipy(tenths: list[int]) -> None:
    whole = np.array(tenths)  # whole numbers: scipy compares sums without a tolerance, and tenths have no exact sum
    greater = stats.permutation_test(
        (whole * np.sign(whole.sum()),), np.sum, permutation_type="samples", n_resamples=np.inf, alternative="greater"
    )
    assert sign_flip_p(whole / 10) == pytest.approx(min(1.0, 2 * greater.pvalue))


@given(st.integers(0, 200), st.integers(1, 200))
@settings(max_examples=50, deadline=None)
def test_wilson_agrees_with_scipy(successes: int, trials: int) -> None:
    successes = min(successes, trials)
    wanted = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson(successes, trials) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_wilson_refuses() -> None:
    with pytest.raises(ValueError, match="trials"):
        wilson(1, 0)
    with pytest.raises(ValueError, match="successes"):
        wilson(3, 2)


# ------------------------------------------------------------------ pairs, Holm, power


def test_pairing_removes_what_both_share() -> None:
    hard = random(0).random((1, 40))
    first, second = cells(hard * 0.8 + 0.1, 1e6), cells(hard * 0.8 + 0.02 * random(1).random((1, 40)), 1e6)
    paired, alone = difference(first, second), estimate(first)
    assert paired.half_width() < 0.2 * alone.half_width()
    assert 0.08 < paired.low < 0.09 < paired.high < 0.1


def test_a_difference_of_differences() -> None:
    arms = [cells(random(seed).random((3, 6))) for seed in range(4)]
    estimate = contrast(arms, [1, -1, -1, 1])
    assert estimate.value == pytest.approx(arms[0].mean - arms[1].mean - arms[2].mean + arms[3].mean)
    assert contrast([cells([[1.0] * 9]), cells([[0.0] * 9])] * 2, [1, -1, 1, -1]).high == 2


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([]) == ()
    assert holm([0.5, 0.9]) == (1.0, 1.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(deadline=None)
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(p: list[float]) -> None:
    adjusted = holm(p)
    for raw, mine in zip(p, adjusted, strict=True):
        assert raw <= mine <= 1
        assert mine <= len(p) * raw + 1e-12
        assert all(mine <= other for value, other in zip(p, adjusted, strict=True) if value > raw)
    assert holm(p[::-1]) == adjusted[::-1] or len(set(p)) < len(p)


def test_minimum_detectable_effect_is_shown_that_often() -> None:
    draw, detected, trials = random(0), 0, 300
    null = difference(cells(0.5 + 0.2 * draw.standard_normal((1, 30)), 1e6), cells(np.full((1, 30), 0.5), 1e6))
    effect, deviation = minimum_detectable_effect(null), null.errors[0].deviation * math.sqrt(30)
    assert effect == pytest.approx((2.045 + 0.854) * null.errors[0].deviation, rel=0.01)
    for _ in range(trials):
        leak = 0.5 + effect + deviation * draw.standard_normal((1, 30))
        detected += difference(cells(leak, 1e6), cells(np.full((1, 30), 0.5), 1e6)).low > 0
    assert detected / trials == pytest.approx(0.8, abs=0.08)


def test_what_goes_unseen_shrinks_with_cells_and_never_vanishes() -> None:
    nothing = [difference(cells([[0.0] * n]), cells([[0.0] * n])) for n in (5, 20, 100)]
    effects = [minimum_detectable_effect(each) for each in nothing]
    assert effects == sorted(effects, reverse=True)
    assert effects[-1] >= 1 - 0.2 ** (1 / 100)
    assert unseen(5) == pytest.approx(1 - 0.05 ** (1 / 5))
