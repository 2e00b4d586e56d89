"""The auditor's metrics against closed forms and library implementations, and what each of them refuses."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from auditor.evaluators.embedding import fit_embedding
from auditor.evaluators.threshold import Threshold, calibrate
from auditor.metrics import distances
from auditor.metrics.attack_accuracy import AttackAccuracy, others_ahead, restarts_of
from auditor.metrics.attack_accuracy import attack_accuracy as accuracy_of_ranks
from auditor.metrics.distances import (
    MemberLift,
    copy_guard,
    euclidean,
    feature_distance,
    knn_distance,
    member_lift,
    nearest,
    nearest_of_class,
)
from auditor.metrics.diversity import effective_number, mean_pairwise_distance
from auditor.metrics.fidelity import NEIGHBOURS, Manifolds, RealSet, fid, kid, manifolds
from auditor.omitted import Omitted
from fedinverse.data.source import unit
from fedinverse.diversity import vendi_score
from fedinverse.errors import DataError


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shuffled(seed: int, count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------ attack accuracy


def attack_accuracy(logits: Tensor, labels: Tensor, restarts: Tensor) -> AttackAccuracy:
    return accuracy_of_ranks(others_ahead(logits, labels), labels, restarts, logits.shape[1])


def test_accuracy_per_class_and_deviation_over_restarts() -> None:
    labels = torch.tensor([3, 3, 7, 7])
    restarts = torch.tensor([0, 1, 0, 1])
    logits = torch.zeros(4, 10)
    logits[0, 3] = logits[1, 3] = logits[2, 7] = 1
    logits[3, 2] = 1
    accuracy = attack_accuracy(logits, labels, restarts)
    assert accuracy.labels.tolist() == [3, 7]
    assert accuracy.top1.tolist() == [1, 0.5]
    assert accuracy.count.tolist() == [2, 2]
    assert accuracy.mean == 0.75
    # Restart 0 takes both classes, restart 1 one of them: 1 and .5.
    assert accuracy.deviation == pytest.approx(0.5 / math.sqrt(2))


def test_top5_only_from_fifty_classes_on() -> None:
    labels, restarts = torch.arange(4), torch.zeros(4, dtype=torch.int64)
    few = attack_accuracy(normal(0, 4, 49), labels, restarts)
    assert isinstance(few.top5, Omitted)
    assert "50" in few.top5.reason
    assert isinstance(few.deviation, Omitted)
    logits = torch.arange(60.0).flip(0).repeat(6, 1)  # class c is at rank c
    many = attack_accuracy(logits, torch.arange(6), torch.zeros(6, dtype=torch.int64))
    assert isinstance(many.top5, Tensor)
    assert many.top5.tolist() == [1, 1, 1, 1, 1, 0]
    assert many.top1.tolist() == [1, 0, 0, 0, 0, 0]


def test_ties_and_nan_are_no_success() -> None:
    logits = torch.tensor([[1.0, 1.0, 0.0], [math.nan, math.nan, math.nan]])
    assert attack_accuracy(logits, torch.tensor([0, 1]), torch.tensor([0, 0])).mean == 0


@given(st.integers(0, 2**31 - 1), st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_accuracy_does_not_depend_on_the_order(seed: int, count: int) -> None:
    random = torch.Generator().manual_seed(seed)
    logits, labels = normal(seed, count, 60), torch.randint(60, (count,), generator=random)
    restarts, order = torch.randint(3, (count,), generator=random), shuffled(seed, count)
    one = attack_accuracy(logits, labels, restarts)
    other = attack_accuracy(logits[order], labels[order], restarts[order])
    assert isinstance(one.top5, Tensor)
    assert isinstance(other.top5, Tensor)
    assert torch.equal(one.top1, other.top1)
    assert torch.equal(one.top5, other.top5)
    assert bool((one.top1 <= one.top5).all())
    assert one.deviation == pytest.approx(other.deviation) or isinstance(one.deviation, Omitted)


def test_restarts_count_within_their_class() -> None:
    assert restarts_of(torch.tensor([4, 4, 2, 4, 2])).tolist() == [0, 1, 0, 2, 1]
    assert restarts_of(torch.arange(3).repeat_interleave(2)).tolist() == [0, 1] * 3


@pytest.mark.parametrize("labels", [[], [10], [-1]])
def test_accuracy_refuses(labels: list[int]) -> None:
    wanted = torch.tensor(labels, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"no reconstruction|labels"):
        attack_accuracy(torch.zeros(len(labels), 10), wanted, torch.zeros_like(wanted))


# ------------------------------------------------------------------ distances


@given(st.integers(0, 2**31 - 1), st.floats(-1e3, 1e3))
@settings(max_examples=20, deadline=None)
def test_distances_agree_with_the_definition_far_from_the_origin(seed: int, offset: float) -> None:
    a, b = normal(seed, 7, 5) + offset, normal(seed + 1, 9, 5) + offset
    plain = (a[:, None] - b[None]).square().sum(-1).sqrt()
    torch.testing.assert_close(euclidean(a, b), plain, rtol=1e-6, atol=1e-6)


def test_nearest_of_class_by_hand() -> None:
    queries, labels = torch.tensor([[0.0], [0.0], [5.0]]), torch.tensor([0, 1, 2])
    references, reference_labels = torch.tensor([[1.0], [3.0], [-2.0]]), torch.tensor([0, 0, 1])
    result = nearest_of_class(queries, labels, references, reference_labels)
    assert result.distance.tolist() == [1, 2, math.inf]
    assert result.index.tolist() == [0, 2, -1]
    assert nearest(queries, references).index.tolist() == [0, 0, 1]
    assert nearest(queries, references[:0]).index.tolist() == [-1, -1, -1]
    assert knn_distance(queries, labels, references, reference_labels).tolist() == [1, 2, math.inf]
    to_centroid = feature_distance(queries, labels, references, reference_labels)
    assert to_centroid[:2].tolist() == [2, 2]
    assert bool(to_centroid[2].isnan())


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(0, 50, 4), normal(1, 30, 4)
    whole = nearest(a, b), manifolds(a, RealSet(b)), mean_pairwise_distance(a)
    monkeypatch.setattr(distances, "BLOCK", 70)
    parts = nearest(a, b), manifolds(a, RealSet(b)), mean_pairwise_distance(a)
    assert torch.equal(whole[0].index, parts[0].index)
    assert whole[1] == parts[1]
    assert whole[2] == pytest.approx(parts[2])


# ------------------------------------------------------------------ fidelity


def test_fid_of_a_shift_is_its_squared_length() -> None:
    real = normal(0, 2000, 3)
    shift = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
    assert fid(real + shift, RealSet(real)) == pytest.approx(5, abs=1e-6)
    assert fid(real, RealSet(real)) == pytest.approx(0, abs=1e-6)


def test_fid_is_refused_under_two_thousand() -> None:
    refused = fid(normal(0, 1999, 3), RealSet(normal(1, 2500, 3)))
    assert isinstance(refused, Omitted)
    assert "2,000" in refused.reason
    assert "1,999" in refused.reason


def test_kid_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.kid import poly_mmd

    a, b = normal(0, 60, 8), normal(1, 60, 8) + 0.5
    assert kid(a, RealSet(b)) == pytest.approx(float(poly_mmd(b, a)), rel=1e-9)
    assert isinstance(kid(a[:9], RealSet(b)), Omitted)
    values = [kid(normal(2 * seed, 40, 8), RealSet(normal(2 * seed + 1, 70, 8))) for seed in range(60)]
    mean = sum(value for value in values if isinstance(value, float)) / len(values)
    assert abs(mean) < 0.02  # unbiased: one distribution, sets of different sizes


def test_manifolds_of_equal_and_of_far_sets() -> None:
    rows = normal(0, 80, 4)
    k = NEIGHBOURS
    # A ball reaches its k-th neighbour and holds its centre: k + 1 points each, hence density (k + 1) / k.
    same = manifolds(rows, RealSet(rows.clone()))
    assert isinstance(same, Manifolds)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert same.density == pytest.approx((k + 1) / k)
    assert manifolds(rows + 1e3, RealSet(rows)) == Manifolds(0, 0, 0, 0)
    assert isinstance(manifolds(rows[:5], RealSet(rows)), Omitted)


def test_collapse_keeps_precision_and_loses_coverage() -> None:
    real = normal(0, 200, 2)
    measured = manifolds(real[:1].repeat(50, 1), RealSet(real))
    assert isinstance(measured, Manifolds)
    assert measured.precision == 1
    assert measured.coverage < 0.1


# ------------------------------------------------------------------ diversity


def test_diversity_closed_forms() -> None:
    alike, apart = torch.ones(6, 4), torch.eye(6)
    assert mean_pairwise_distance(alike) == 0
    assert vendi_score(alike) == pytest.approx(1)
    assert mean_pairwise_distance(apart) == pytest.approx(math.sqrt(2))
    assert vendi_score(apart) == pytest.approx(6)
    # Two groups of alike images are two effective ones, through either Gram matrix.
    assert vendi_score(torch.eye(2).repeat(5, 1)) == pytest.approx(2)
    assert vendi_score(torch.eye(2, 20).repeat(5, 1)) == pytest.approx(2)
    assert isinstance(effective_number(apart[:1]), Omitted)
    assert isinstance(effective_number(torch.zeros(3, 2)), Omitted)
    assert isinstance(mean_pairwise_distance(apart[:1]), Omitted)


@given(st.integers(0, 2**31 - 1), st.integers(6, 30))
@settings(max_examples=20, deadline=None)
def test_set_metrics_do_not_depend_on_the_order(seed: int, count: int) -> None:
    a, b, order = normal(seed, count, 5), normal(seed + 1, 20, 5), shuffled(seed, count)
    assert vendi_score(a) == pytest.approx(vendi_score(a[order]))
    assert 1 <= vendi_score(a) <= min(count, 5) + 1e-9
    assert mean_pairwise_distance(a) == pytest.approx(mean_pairwise_distance(a[order]))
    assert manifolds(a, RealSet(b)) == manifolds(a[order], RealSet(b))
    if count >= 10:
        assert kid(a, RealSet(b)) == pytest.approx(kid(a[order], RealSet(b)))


# ------------------------------------------------------------------ membership


def lift(features: Tensor, train: Tensor, reserve: Tensor, classes: int = 1) -> MemberLift:
    def labels(rows: Tensor) -> Tensor:
        return torch.arange(len(rows)) % classes

    measured = member_lift(
        features,
        labels(features),
        train=train,
        train_labels=labels(train),
        reserve=reserve,
        reserve_labels=labels(reserve),
    )
    assert isinstance(measured, MemberLift)
    return measured


def test_member_lift_of_copies() -> None:
    train, reserve = normal(0, 50, 6), normal(1, 50, 6)
    memorised = lift(train, train, reserve, classes=5)
    assert memorised.value == 1
    assert memorised.interval[0] == pytest.approx(0.5655, abs=1e-4)  # Wilson, 5 of 5
    assert memorised.memorised
    assert memorised.count.tolist() == [10] * 5
    reverse = lift(reserve, train, reserve, classes=5)
    assert reverse.value == 0
    assert not reverse.memorised


def test_member_lift_of_prototypes_is_one_half() -> None:
    values = [lift(normal(9, 1, 6), normal(100 + s, 50, 6), normal(900 + s, 20, 6)).value for s in range(400)]
    assert sum(values) / len(values) == pytest.approx(0.5, abs=0.04)
    assert not lift(normal(9, 5, 6), normal(1, 250, 6), normal(2, 100, 6), classes=5).memorised


@pytest.mark.parametrize(("members", "others"), [(30, 8), (8, 30), (12, 12)])
def test_member_lift_is_the_mean_over_equal_subsets(members: int, others: int) -> None:
    query, train, reserve = normal(5, 1, 3), normal(6, members, 3), normal(7, others, 3)
    exact = lift(query, train, reserve).value
    size, wins, trials = min(members, others), 0, 3000
    for seed in range(trials):
        a = euclidean(query, train[shuffled(seed, members)[:size]]).min()
        b = euclidean(query, reserve[shuffled(seed + trials, others)[:size]]).min()
        wins += int(a < b)
    assert exact == pytest.approx(wins / trials, abs=0.03)


def test_member_lift_ties_count_half_and_missing_classes_are_left_out() -> None:
    rows = normal(0, 4, 3)
    assert lift(rows, rows, rows.clone()).value == pytest.approx(0.5)
    absent = member_lift(
        rows,
        torch.full((4,), 9),
        train=rows,
        train_labels=torch.zeros(4),
        reserve=rows,
        reserve_labels=torch.zeros(4),
    )
    assert isinstance(absent, Omitted)


def test_copy_guard() -> None:
    victim, known = torch.tensor([[0.0], [1.0]]), torch.tensor([[10.0], [1.0]])
    guard = copy_guard(torch.tensor([[0.1], [9.0], [1.0]]), victim, known)
    assert guard.tolist() == [True, False, False]  # a tie is a copy


# ------------------------------------------------------------------ threshold and embedding


def test_threshold_keeps_false_accepts_at_one_percent() -> None:
    centres = 3 * normal(0, 10, 6)
    labels = torch.arange(1000) % 10
    gallery, probes = centres[labels] + normal(1, 1000, 6), centres[labels] + normal(2, 1000, 6)
    threshold = calibrate(gallery, labels, probes, labels)
    assert isinstance(threshold, Threshold)
    assert threshold.impostors == 9000
    assert 0.009 < threshold.false_accepts <= 0.01
    accepted = nearest_of_class(probes, labels, gallery, labels).distance <= threshold.distance
    assert float(accepted.double().mean()) == pytest.approx(threshold.genuine_accepts)
    assert threshold.genuine_accepts > 0.5


def test_a_threshold_of_many_classes_is_read_in_parts_with_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, probe_labels = torch.arange(300) % 60, torch.arange(220) % 70  # ten classes are under no attack
    gallery, probes = normal(0, 300, 6), normal(1, 220, 6)
    apart = euclidean(probes, gallery)
    nearest = torch.stack([apart[:, labels == label].amin(1) for label in range(60)], 1)
    own = probe_labels[:, None] == torch.arange(60)
    refused = nearest[~own].sort().values[int(0.01 * int((~own).sum()))]
    whole = calibrate(gallery, labels, probes, probe_labels)
    assert isinstance(whole, Threshold)
    assert whole.distance == float(torch.nextafter(refused, torch.zeros_like(refused)))
    assert whole.genuine_accepts == float((nearest[own] < refused).double().mean())
    assert whole.false_accepts == float((nearest[~own] < refused).double().mean())
    monkeypatch.setattr("auditor.metrics.distances.BLOCK", 300 * 16)
    largest: list[int] = []
    monkeypatch.setattr(
        "auditor.metrics.distances.euclidean", lambda a, b: largest.append(len(a) * len(b)) or euclidean(a, b)
    )
    assert calibrate(gallery, labels, probes, probe_labels) == whole
    assert len(largest) == 14
    assert max(largest) == 300 * 16


def test_threshold_refuses_few_impostors() -> None:
    labels = torch.arange(20) % 2
    assert isinstance(calibrate(normal(0, 20, 3), labels, normal(1, 20, 3), labels), Omitted)


def bars(seed: int, count: int, channels: int, side: int) -> tuple[Tensor, Tensor]:
    """Light bars at one of eight angles, each a little shifted and turned: uint8 [N, C, side, side],
    labels."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 8
    angle = labels * (math.pi / 8) + 0.1 * (torch.rand(count, generator=random) - 0.5)
    shift = 0.2 * (torch.rand(count, generator=random) - 0.5)
    axis = torch.linspace(-1, 1, side)
    across = axis[None, None] * angle.cos()[:, None, None] + axis[None, :, None] * angle.sin()[:, None, None]
    images = torch.exp(-(((across - shift[:, None, None]) / 0.15) ** 2))
    return (255 * images[:, None].expand(-1, channels, -1, -1)).to(torch.uint8), labels


@pytest.mark.parametrize(("channels", "side"), [(1, 32), (3, 64)])
def test_embedding_tells_shapes_apart(
    channels: int, side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path))
    vault, _ = bars(0, 160, channels, side)
    embed = fit_embedding(vault)
    (gallery, labels), (probes, truth) = bars(1, 80, channels, side), bars(2, 80, channels, side)
    seen, asked = embed(unit(gallery)), embed(unit(probes))
    torch.testing.assert_close(asked.norm(dim=1), torch.ones(80))
    assert float((labels[nearest(asked, seen).index] == truth).double().mean()) > 0.95
    assert embed(unit(probes[:0])).shape == (0, asked.shape[1])
    again = fit_embedding(vault)  # from the cache
    assert again.key == embed.key
    assert torch.equal(again(unit(probes)), asked)
    assert fit_embedding(gallery[:100].repeat(2, 1, 1, 1)).key != embed.key


def test_embedding_sees_through_faint_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path))
    vault, _ = bars(0, 160, 1, 32)
    embed, (images, _) = fit_embedding(vault), bars(1, 80, 1, 32)
    clean = unit(images)
    noisy = (clean + 0.05 * normal(0, *clean.shape).float()).clamp(0, 1)
    moved = (embed(noisy) - embed(clean)).norm(dim=1)
    apart = mean_pairwise_distance(embed(clean))
    assert isinstance(apart, float)
    assert float(moved.mean()) < 0.25 * apart


def test_embedding_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path))
    vault, _ = bars(0, 120, 1, 32)
    with pytest.raises(DataError, match="100"):
        fit_embedding(vault[:99])
    embed = fit_embedding(vault)
    with pytest.raises(DataError, match="fitted to images"):
        embed(torch.zeros(1, 3, 64, 64))


def test_embedding_of_a_blank_vault_is_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path))
    embed = fit_embedding(torch.zeros(100, 1, 32, 32, dtype=torch.uint8))
    assert bool(embed(torch.zeros(2, 1, 32, 32)).isfinite().all())
