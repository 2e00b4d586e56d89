"""HSIC and COCO against the closed forms and float64, and the fast penalty against the plain sums."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedinverse.dependence import (
    biased_hsic,
    bilateral_coco,
    bilateral_hsic,
    centre,
    coco_frobenius,
    coco_spectral,
    flat,
    kernel_matrix,
    published,
    ridge_hsic,
    squared_distances,
    unbiased_hsic,
)
from fedinverse.dependence.hsic import EPS
from fedinverse.dependence.kernels import bandwidth

SIGNS = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
CROSSED = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
PAIRS = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
KAPPA = math.exp(-1 / 50)


def random_batch(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def one_hot(seed: int, m: int, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.eye(classes, dtype=dtype)[torch.randint(classes, (m,), generator=torch.Generator().manual_seed(seed))]


def pairwise(rows: Tensor) -> Tensor:
    return (rows[:, None] - rows[None, :]).square().sum(-1)


# ------------------------------------------------------------------ closed forms


def test_linear_kernel_on_signs() -> None:
    same, other = kernel_matrix(SIGNS, "linear"), kernel_matrix(CROSSED, "linear")
    assert biased_hsic(same, same).item() == pytest.approx(16 / 9, rel=1e-12)
    assert coco_frobenius(same, same).item() == pytest.approx(1, rel=1e-12)
    assert coco_spectral(same, same).item() == pytest.approx(1, rel=1e-12)
    assert biased_hsic(same, other).item() == 0


def test_gaussian_kernel_on_two_pairs() -> None:
    kernel = kernel_matrix(PAIRS)
    assert biased_hsic(kernel, kernel).item() == pytest.approx((1 - KAPPA) ** 2 * 16 / (4 * 9), rel=1e-6)
    assert biased_hsic(kernel, kernel).item() == pytest.approx(1.742634e-4, rel=1e-6)
    assert ridge_hsic(kernel, kernel).item() == pytest.approx(((1 - KAPPA) / (1 - KAPPA + 2 * EPS)) ** 2, rel=1e-9)
    assert ridge_hsic(kernel, kernel).item() == pytest.approx(0.997983, abs=1e-6)


@pytest.mark.parametrize("classes", [2, 5, 10])
def test_ridge_hsic_of_balanced_labels_with_themselves(classes: int) -> None:
    kernel = kernel_matrix(torch.eye(classes).repeat(6, 1), "linear")
    assert ridge_hsic(kernel, kernel).item() == pytest.approx((classes - 1) / (1 + EPS * classes) ** 2, rel=1e-9)
    if classes == 10:
        assert ridge_hsic(kernel, kernel).item() == pytest.approx(8.9982, abs=5e-5)


def test_unbiased_hsic_is_the_mean_over_distinct_quadruples() -> None:
    k, l = (kernel_matrix(random_batch(seed, 6, 3)) for seed in (0, 1))  # noqa: E741
    terms = []
    for i in range(6):
        for j in range(6):
            for q in range(6):
                for r in range(6):
                    if len({i, j, q, r}) == 4:
                        terms.append(k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]))
    assert unbiased_hsic(k, l).item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-10)
    with pytest.raises(ValueError, match="at least 4"):
        unbiased_hsic(k[:3, :3], l[:3, :3])


def test_unbiased_hsic_averages_to_zero_for_independent_samples() -> None:
    values = [
        unbiased_hsic(kernel_matrix(random_batch(seed, 16, 2)), kernel_matrix(random_batch(9000 + seed, 16, 2)))
        for seed in range(200)
    ]
    spread = torch.stack(values)
    assert abs(spread.mean()) < 4 * spread.std() / math.sqrt(len(values))


# ------------------------------------------------------------------ kernels


def test_kernels_are_their_formulas() -> None:
    batch = random_batch(0, 9, 4, dtype=torch.float64)
    distances = pairwise(batch)
    torch.testing.assert_close(squared_distances(batch)[0], distances)
    torch.testing.assert_close(kernel_matrix(batch, sigma=2.0), torch.exp(-distances / (2 * 4 * 4)))
    torch.testing.assert_close(kernel_matrix(batch, "imq"), 1 / torch.sqrt(distances + 1))
    torch.testing.assert_close(kernel_matrix(batch, "linear"), batch @ batch.T)


def test_median_rules() -> None:
    batch = random_batch(0, 9, 4, dtype=torch.float64)
    distances = pairwise(batch)
    upper = distances[torch.triu_indices(9, 9, 1).unbind()]
    assert bandwidth(distances, 4, "median").item() == pytest.approx(upper.quantile(0.5).item())
    doubled = pairwise(torch.cat([batch, batch]))
    lower = doubled[torch.tril_indices(18, 18, -1).unbind()]
    assert bandwidth(distances, 4, "median_paper").item() == pytest.approx(lower.quantile(0.5).item() ** 2)
    alike = torch.zeros(5, 5, dtype=torch.float64)
    assert bandwidth(alike, 4, "median") == 1
    assert bandwidth(alike, 4, "median_paper").item() == pytest.approx(1e-4)


def test_channels_last_batch_is_read_in_place() -> None:
    batch = random_batch(0, 4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    assert flat(batch).data_ptr() == batch.data_ptr()
    assert flat(batch).is_contiguous()
    nchw = squared_distances(batch.contiguous())
    torch.testing.assert_close(squared_distances(batch), nchw, rtol=1e-6, atol=1e-5)


def test_distances_under_a_large_common_offset() -> None:
    batch = random_batch(0, 32, 100)
    exact = pairwise(batch.double())
    shifted = (batch.double() + 1000).float()
    torch.testing.assert_close(
        squared_distances(shifted)[0], pairwise(shifted.double()), rtol=1e-5, atol=1e-5 * exact.max().item()
    )


def test_matrices_stay_float64_under_autocast() -> None:
    batch = random_batch(0, 8, 20)
    with torch.autocast("cpu", torch.bfloat16):
        inside = kernel_matrix(batch), kernel_matrix(batch, "linear")
        penalty = bilateral_hsic(batch, one_hot(0, 8, 3), (batch * 2,), lambda_x=1.0, lambda_y=1.0)
    outside = kernel_matrix(batch), kernel_matrix(batch, "linear")
    assert all(torch.equal(a, b) and a.dtype == torch.float64 for a, b in zip(inside, outside, strict=True))
    assert penalty == bilateral_hsic(batch, one_hot(0, 8, 3), (batch * 2,), lambda_x=1.0, lambda_y=1.0)


def test_gradient_of_distances() -> None:
    batches = [random_batch(seed, 5, 3, dtype=torch.float64).requires_grad_() for seed in range(2)]
    assert torch.autograd.gradcheck(lambda *b: squared_distances(*b) + 0.0, batches)


# ------------------------------------------------------------------ invariances

MEASURES = [biased_hsic, ridge_hsic, coco_frobenius, coco_spectral, unbiased_hsic]
batches = st.tuples(st.integers(0, 10_000), st.integers(4, 20), st.integers(1, 8))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(batches, st.floats(-5, 5))
def test_invariant_to_motion_and_joint_permutation(drawn: tuple[int, int, int], offset: float) -> None:
    seed, m, d = drawn
    x, y = (random_batch(seed + shift, m, d, dtype=torch.float64) for shift in (0, 1))
    rotation = torch.linalg.qr(random_batch(seed + 2, d, d, dtype=torch.float64)).Q
    order = torch.randperm(m, generator=torch.Generator().manual_seed(seed))
    k, l = kernel_matrix(x), kernel_matrix(y)  # noqa: E741
    moved, permuted = kernel_matrix(x @ rotation + offset), (kernel_matrix(x[order]), kernel_matrix(y[order]))
    for measure in MEASURES:
        value = measure(k, l)
        torch.testing.assert_close(measure(moved, l), value, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(measure(*permuted), value, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(measure(l, k), value, rtol=1e-9, atol=1e-12)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(batches, st.sampled_from(["gaussian", "linear", "imq"]))
def test_ranges(drawn: tuple[int, int, int], kernel: str) -> None:
    seed, m, d = drawn
    k, l = (kernel_matrix(random_batch(seed + shift, m, d), kernel) for shift in (0, 1))  # noqa: E741
    slack = 1e-7 * m
    assert -slack <= ridge_hsic(k, l) <= m - 1 + slack
    assert -slack <= ridge_hsic(k, k) <= m - 1 + slack
    assert biased_hsic(k, l) >= -slack
    assert coco_spectral(k, l) <= coco_frobenius(k, l) + slack


def test_centring_is_two_sided() -> None:
    kernel = kernel_matrix(random_batch(0, 7, 3))
    h = torch.eye(7, dtype=torch.float64) - 1 / 7
    torch.testing.assert_close(centre(kernel), h @ kernel @ h)
    torch.testing.assert_close(centre(torch.stack([kernel, kernel.square()]))[1], h @ kernel.square() @ h)


# ------------------------------------------------------------------ parity and precision


@pytest.mark.parametrize("kernel", ["gaussian", "linear", "imq"])
def test_published_ridge_form_agrees_in_float64(kernel: str) -> None:
    x, z = random_batch(0, 24, 30, dtype=torch.float64), random_batch(1, 24, 12, dtype=torch.float64)
    ours = ridge_hsic(kernel_matrix(x, kernel), kernel_matrix(z, kernel))
    assert published.ridge_hsic(x, z, (kernel, kernel)).item() == pytest.approx(ours.item(), rel=1e-7)


def test_published_coco_centres_both_kernels_on_both_sides() -> None:
    x, z = random_batch(0, 8, 5, dtype=torch.float64), random_batch(1, 8, 3, dtype=torch.float64)
    h = torch.eye(8, dtype=torch.float64) - 1 / 8
    product = h @ kernel_matrix(x) @ h @ h @ kernel_matrix(z) @ h
    assert published.coco(x, z).item() == pytest.approx(coco_frobenius(kernel_matrix(x), kernel_matrix(z)).item())
    assert published.coco(x, z).item() == pytest.approx(product.norm().sqrt().item() / 8, rel=1e-9)


def plain_sum(images: Tensor, labels: Tensor, taps: list[Tensor], measure: object) -> Tensor:
    """The penalty as it is written, through autograd of m x m float64 matrices, weights (2, 20)."""
    k_x, k_y = kernel_matrix(images), kernel_matrix(labels, "linear")
    return sum(2 * measure(k_x, kernel_matrix(tap)) - 20 * measure(kernel_matrix(tap), k_y) for tap in taps)  # type: ignore[operator,misc,return-value]


def hidden(seed: int, m: int, dtype: torch.dtype) -> list[Tensor]:
    """Taps like a network's: rectified, with a mean, 4-d channels-last and flat."""
    maps = (random_batch(seed, m, 8, 6, 6) + 0.3).relu().contiguous(memory_format=torch.channels_last)
    return [tap.to(dtype).requires_grad_() for tap in (maps, random_batch(seed + 1, m, 40).relu())]


def error(gradient: list[Tensor], reference: list[Tensor]) -> float:
    pairs = zip(gradient, reference, strict=True)
    return max(float((g.double() - r).norm() / r.norm()) for g, r in pairs)


@pytest.mark.parametrize("m", [16, 32, 64, 128, 256])
def test_float32_gradient_against_float64(m: int, record_property: Callable[[str, object], None]) -> None:
    images, labels = random_batch(7, m, 1, 12, 12).sigmoid(), one_hot(8, m, 10)
    exact = hidden(0, m, torch.float64)
    # The reference is the definition in float64: products with H for the centring and a plain inverse.
    h = torch.eye(m, dtype=torch.float64) - 1 / m

    def r(rows: Tensor, linear: bool = False) -> Tensor:
        rows = rows.double().flatten(1)
        products = rows @ rows.T
        norms = products.diagonal()
        distances = norms[:, None] + norms - 2 * products
        centred = h @ (products if linear else torch.exp(-distances / (50 * rows.shape[1]))) @ h
        return centred @ torch.linalg.inv(centred + EPS * m * torch.eye(m, dtype=torch.float64))

    weight = 2 * r(images) - 20 * r(labels, linear=True)
    value = sum((weight * r(tap)).sum() for tap in exact)
    reference = torch.autograd.grad(value, exact)  # type: ignore[arg-type]

    taps = hidden(0, m, torch.float32)
    ours = bilateral_hsic(images, labels, taps, lambda_x=2.0, lambda_y=20.0)
    assert ours.item() == pytest.approx(value.item(), rel=1e-4)  # type: ignore[union-attr]
    deviation = error(list(torch.autograd.grad(ours, taps)), list(reference))
    record_property("gradient_error", deviation)
    assert deviation < 2e-3


@pytest.mark.parametrize("m", [2, 16, 64])
def test_fast_penalties_are_the_plain_sums(m: int) -> None:
    images, labels = random_batch(7, m, 1, 12, 12, dtype=torch.float64), one_hot(8, m, 10, torch.float64)
    for measure, fast in (
        (ridge_hsic, lambda taps: bilateral_hsic(images, labels, taps, lambda_x=2.0, lambda_y=20.0)),
        (coco_frobenius, lambda taps: bilateral_coco(images, labels, taps, lambda_x=2.0, lambda_y=20.0)),
        (
            coco_spectral,
            lambda taps: bilateral_coco(images, labels, taps, lambda_x=2.0, lambda_y=20.0, norm="spectral"),
        ),
    ):
        taps = hidden(0, m, torch.float64)
        expected, actual = plain_sum(images, labels, taps, measure), fast(taps)
        assert actual.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
        assert error(list(torch.autograd.grad(actual, taps)), list(torch.autograd.grad(expected, taps))) < 1e-5


@pytest.mark.parametrize("sigma", ["median", "median_paper", 3.0])
def test_penalty_takes_every_width(sigma: float | str) -> None:
    images, labels, taps = random_batch(7, 20, 1, 8, 8), one_hot(8, 20, 4), hidden(0, 20, torch.float32)
    k_x, k_y = kernel_matrix(images, sigma=sigma), kernel_matrix(labels, sigma=sigma)
    expected = sum(ridge_hsic(k_x, k) - ridge_hsic(k, k_y) for k in (kernel_matrix(tap, sigma=sigma) for tap in taps))
    actual = bilateral_hsic(images, labels, taps, lambda_x=1.0, lambda_y=1.0, sigma=sigma, label_kernel="gaussian")
    assert actual.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)  # type: ignore[union-attr]


def test_a_batch_of_one_class_or_one_image_has_a_finite_gradient() -> None:
    for m, labels in ((6, torch.eye(4)[torch.zeros(6, dtype=torch.long)]), (1, torch.eye(4)[:1])):
        for penalty in (bilateral_hsic, bilateral_coco):
            taps = hidden(0, m, torch.float32)
            penalty(random_batch(7, m, 1, 8, 8), labels, taps, lambda_x=1.0, lambda_y=5.0).backward()
            assert all(tap.grad is not None and tap.grad.isfinite().all() for tap in taps)


def test_nan_comes_out_as_nan() -> None:
    taps = [torch.full((6, 4), float("nan"))]
    assert bilateral_hsic(random_batch(0, 6, 1, 4, 4), one_hot(0, 6, 2), taps, lambda_x=1.0, lambda_y=1.0).isnan()
