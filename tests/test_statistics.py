"""The hierarchical bootstrap, intervals, Holm and the minimum detectable effect, against what they
promise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from auditor.statistics import (
    FEW_SEEDS,
    NO_SPREAD,
    ONE_SEED,
    TOO_FEW_CLASSES,
    Cells,
    Floats,
    aligned,
    bootstrap_means,
    estimate,
    holm,
    marks_of,
    minimum_detectable_effect,
    newcombe,
    paired_difference,
    wilson,
)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def cells(values: Floats | list[list[float]]) -> Cells:
    table = np.asarray(values, np.float64)
    return Cells(table, tuple(range(len(table))), tuple(range(table.shape[1])))


# ------------------------------------------------------------------ cells


def test_cells_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="seeds"):
        Cells(np.zeros((2, 3)), (0,), (0, 1, 2))
    with pytest.raises(ValueError, match="without any class"):
        cells([[0.0, 1.0], [math.nan, math.nan]])
    with pytest.raises(ValueError, match="infinity"):
        cells([[math.inf]])


def test_alignment_keeps_common_cells_only() -> None:
    a = Cells(np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), (0, 1), (7, 8, 9))
    b = Cells(np.array([[10.0, math.nan], [20.0, 30.0]]), (1, 0), (8, 9))
    both = aligned({"a": a, "b": b})
    assert both["a"].seeds == (0, 1)
    assert both["a"].labels == (8, 9)
    np.testing.assert_equal(both["a"].values, [[2, 3], [5, math.nan]])
    np.testing.assert_equal(both["b"].values, [[20, 30], [10, math.nan]])
    with pytest.raises(ValueError, match="share no seed"):
        aligned({"a": a, "c": Cells(np.ones((1, 1)), (5,), (7,))})


# ------------------------------------------------------------------ bootstrap


def test_bootstrap_moments_of_one_seed() -> None:
    values = random(1).random((1, 40))
    sample = bootstrap_means([cells(values)], random(), 20_000)[0]
    assert sample.mean() == pytest.approx(values.mean(), abs=0.003)
    assert sample.std() == pytest.approx(values.std() / math.sqrt(40), rel=0.03)


def test_bootstrap_moments_of_seeds_alone() -> None:
    seeds = random(1).random((12, 1))
    sample = bootstrap_means([cells(np.repeat(seeds, 5, 1))], random(), 20_000)[0]
    assert sample.std() == pytest.approx(seeds.std() / math.sqrt(12), rel=0.03)


def test_ragged_cells_never_draw_a_hole() -> None:
    ragged = cells([[0.2, math.nan, math.nan], [0.2, 0.4, math.nan], [math.nan, 0.2, 0.4]])
    sample = bootstrap_means([ragged], random(), 2000)[0]
    assert np.isfinite(sample).all()
    assert sample.min() >= 0.2 - 1e-12
    assert sample.max() <= 0.4 + 1e-12
    assert ragged.mean == pytest.approx((0.2 + 0.3 + 0.3) / 3)
    assert ragged.count == 5


def test_arms_share_their_draws() -> None:
    a = cells(random(1).random((3, 10)))
    both = bootstrap_means([a, cells(a.values + 1)], random(), 500)
    np.testing.assert_allclose(both[1] - both[0], 1)
    with pytest.raises(ValueError, match="align"):
        bootstrap_means([a, cells(np.where(a.values > 0.5, math.nan, a.values))], random())


def test_batches_of_draws_keep_the_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("auditor.statistics.BATCH", 1000)
    values = random(1).random((2, 30))
    sample = bootstrap_means([cells(values)], random(), 5001)[0]
    assert len(sample) == 5001
    assert sample.mean() == pytest.approx(values.mean(), abs=0.005)


@given(st.integers(0, 2**31 - 1), st.integers(1, 4), st.integers(2, 12))
@settings(max_examples=25, deadline=None)
def test_estimate_does_not_depend_on_the_order(seed: int, seeds: int, classes: int) -> None:
    values = random(seed).random((seeds, classes))
    mixed = values[random(seed + 1).permutation(seeds)][:, random(seed + 2).permutation(classes)]
    one, other = (estimate(cells(each), random(3), 4000) for each in (values, mixed))
    assert one.value == pytest.approx(other.value)
    assert one.low <= one.value <= one.high
    assert one.low == pytest.approx(other.low, abs=0.5 * (one.high - one.low))
    assert one.marks == other.marks


@pytest.mark.parametrize(("seeds", "classes", "between"), [(1, 5, 0.0), (1, 30, 0.0), (8, 20, 0.1), (3, 20, 0.0)])
def test_intervals_cover_what_they_promise(seeds: int, classes: int, between: float) -> None:
    draw, covered, trials = random(0), 0, 400
    for _ in range(trials):
        values = between * draw.standard_normal((seeds, 1)) + 0.3 * draw.standard_normal((seeds, classes))
        found = estimate(cells(values), draw, 1000, share=False)
        covered += found.low <= 0 <= found.high
    assert covered / trials >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / trials)


def test_p_values_agree_with_intervals() -> None:
    for seed in range(30):
        found = estimate(cells(random(seed).normal(0.1, 0.3, (1, 25))), random(), share=False)
        assert (found.low <= 0 <= found.high) == (found.p > 0.05) or abs(found.p - 0.05) < 0.005


def test_marks() -> None:
    assert marks_of(1, 19) == (TOO_FEW_CLASSES, ONE_SEED)
    assert marks_of(4, 20) == (FEW_SEEDS,)
    assert marks_of(5, 20) == ()


# ------------------------------------------------------------------ no spread


def test_equal_shares_get_wilsons_interval() -> None:
    found = estimate(cells([[1.0] * 5]), random())
    assert (found.low, found.high) == wilson(5, 5)
    assert NO_SPREAD in found.marks


def test_nothing_found_in_five_classes_is_not_certainty() -> None:
    nothing = paired_difference(cells([[0.0] * 5]), cells([[0.0] * 5]), random())
    assert nothing.low <= 0 <= nothing.high
    assert nothing.high == pytest.approx(wilson(0, 5)[1])
    assert nothing.p == 1
    assert minimum_detectable_effect(nothing) > 0.5
    everything = paired_difference(cells([[1.0] * 5]), cells([[0.0] * 5]), random())
    assert 0 < everything.low < 0.5
    assert everything.p < 0.05


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


def test_newcombe_by_hand() -> None:
    (a, b), (c, d) = wilson(8, 10), wilson(3, 10)
    low, high = newcombe(0.8, 0.3, 10)
    assert low == pytest.approx(0.5 - math.hypot(0.8 - a, d - 0.3))
    assert high == pytest.approx(0.5 + math.hypot(b - 0.8, 0.3 - c))


# ------------------------------------------------------------------ pairs, Holm, power


def test_pairing_removes_what_both_share() -> None:
    hard = random(0).random((1, 40))
    first = cells(hard * 0.8 + 0.1)
    second = cells(hard * 0.8 + 0.02 * random(1).standard_normal((1, 40)))
    paired, alone = paired_difference(first, second, random()), estimate(first, random())
    assert paired.error < 0.2 * alone.error
    assert 0.08 < paired.low < 0.1 < paired.high < 0.12


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([]) == ()
    assert holm([0.5, 0.9]) == (1.0, 1.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(deadline=None)
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(p: list[float]) -> None:
    adjusted = holm(p)
    for own, mine in zip(p, adjusted, strict=True):
        assert own <= mine <= 1
        assert mine <= len(p) * own + 1e-12
        assert all(mine <= other for value, other in zip(p, adjusted, strict=True) if value > own)
    assert holm(p[::-1]) == adjusted[::-1] or len(set(p)) < len(p)


def test_minimum_detectable_effect_is_found_that_often() -> None:
    draw, found, trials = random(0), 0, 300
    null = estimate(cells(0.3 * draw.standard_normal((1, 30))), draw, 2000, share=False)
    effect = minimum_detectable_effect(null)
    deviation = null.error * math.sqrt(30)
    for _ in range(trials):
        leak = cells(effect + deviation * draw.standard_normal((1, 30)))
        found += estimate(leak, draw, 1000, share=False).low > 0
    assert found / trials == pytest.approx(0.8, abs=0.08)


def test_minimum_detectable_effect_shrinks_with_cells_and_never_vanishes() -> None:
    sizes = [5, 20, 100]
    effects = [
        minimum_detectable_effect(paired_difference(cells([[0.0] * n]), cells([[0.0] * n]), random())) for n in sizes
    ]
    assert effects == sorted(effects, reverse=True)
    assert effects[-1] >= 1 - 0.2 ** (1 / 100)
    assert minimum_detectable_effect(estimate(cells([[0.5]]), random())) == 1
