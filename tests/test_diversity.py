"""FedInverse's diversity terms: what the published one does, and what the valid one does."""

import math
from typing import Any

import pytest
import torch
from attack_bench import POINTS, check, inverted, noise_images
from torch import Tensor

from attacker.attacks.registry import attack_names
from attacker.losses.diversity import (
    Diversity,
    DiversitySettings,
    layout,
    measured_diversity,
    vendi_score,
)
from fedinverse.dependence import coco_frobenius, kernel_matrix, ridge_hsic
from fedinverse.errors import ConfigError


@pytest.mark.parametrize("name", attack_names())
def test_no_diversity_is_bit_identical(name: str) -> None:
    labels = [0, 1, 2, 0, 1, 2]
    plain = inverted(name, labels)
    for off in ({"measure": "none", "weight": 3.0}, {"measure": "hsic_paper", "weight": 0.0}):
        assert torch.equal(plain.images, inverted(name, labels, {"diversity": off}).images)


@pytest.mark.parametrize("name", attack_names())
@pytest.mark.parametrize(
    "term",
    [
        {"measure": "hsic_paper", "weight": 50.0},
        {"measure": "hsic_paper", "weight": 1e5, "sigma": 0.0},
        {"measure": "hsic_paper", "weight": 50.0, "kernel": "imq"},
        {"measure": "coco_paper", "weight": 50.0, "kernel": "linear"},
        {"measure": "hsic", "weight": -1e4},
    ],
)
def test_diversity_acts(name: str, term: dict[str, Any]) -> None:
    labels = [label for label in range(5) for _ in range(4)]
    draws = {} if name in POINTS else {"draws": 4}
    plain, pushed = inverted(name, labels, draws), inverted(name, labels, draws | {"diversity": term})
    check(pushed, labels)
    assert not torch.equal(plain.images, pushed.images)


@pytest.mark.parametrize("name", attack_names())
def test_diversity_refuses_what_it_cannot_couple(name: str) -> None:
    paper, valid = (
        {"diversity": {"measure": "hsic_paper"}},
        {"diversity": {"measure": "hsic", "weight": -1.0}},
    )
    with pytest.raises(ConfigError, match="max_batch"):
        inverted(name, [0, 1, 2, 3], paper | {"max_batch": 3})
    with pytest.raises(ConfigError, match="needs 4"):
        inverted(name, [0, 0, 1, 1], valid)


def test_gmi_diversity_needs_equal_restarts() -> None:
    with pytest.raises(ConfigError, match="equally often"):
        inverted("gmi", [0, 0, 1], {"diversity": {"measure": "hsic_paper"}})


def test_a_batch_cut_between_restarts_changes_nothing_for_the_papers_term() -> None:
    labels, term = [0, 1, 2, 3] * 3, {"diversity": {"measure": "hsic_paper", "weight": 50.0}}
    whole, cut = inverted("gmi", labels, term), inverted("gmi", labels, term | {"max_batch": 4})
    torch.testing.assert_close(whole.latent, cut.latent, rtol=1e-4, atol=1e-4)


def term(images: Tensor, **settings: Any) -> Tensor:
    paper = DiversitySettings(**{"measure": "hsic_paper", "weight": 1.0} | settings)
    return Diversity(paper)(images, torch.zeros(*images.shape[:2], 3), torch.zeros(*images.shape[:2], 3))


def test_the_papers_term_is_ridge_hsic_of_the_halves() -> None:
    images = noise_images(9)
    halves = images[:4].flatten(1), images[4:8].flatten(1)
    first, second = (kernel_matrix(half, "gaussian", 5.0) for half in halves)
    expected = ridge_hsic(first, second)
    assert float(term(images)) == pytest.approx(9 * float(expected), rel=1e-5)


@pytest.mark.parametrize("kernel", ["linear", "imq"])
@pytest.mark.parametrize(("name", "measure"), [("hsic_paper", ridge_hsic), ("coco_paper", coco_frobenius)])
def test_the_papers_other_kernels_are_the_second_halfs_alone(name: str, measure: Any, kernel: Any) -> None:
    images = noise_images(8)
    first, second = images[:4].flatten(1), images[4:].flatten(1)
    expected = 8 * measure(kernel_matrix(first, "gaussian", 5.0), kernel_matrix(second, kernel))
    assert float(term(images, measure=name, kernel=kernel)) == pytest.approx(float(expected), rel=1e-5)


def test_the_papers_term_is_inert_at_two_pairs() -> None:
    """MNIST, five classes: two images a half. The value is nearly 1 whatever the images, the gradient nothing."""
    images = noise_images(5).requires_grad_(True)
    value = term(images) / 5
    (slope,) = torch.autograd.grad(value, images)
    assert 0.98 < float(value.detach()) <= 1
    assert slope.abs().max() <= 1e-4


def test_descending_the_papers_term_at_fixed_sigma_contracts_the_batch() -> None:
    def distance(images: Tensor) -> float:
        return float(torch.pdist(images.flatten(1)).mean())

    start = noise_images(16)
    images = start.clone()
    for _ in range(200):
        images.requires_grad_(True)
        (slope,) = torch.autograd.grad(term(images), images)
        images = (images - 0.05 * slope / slope.norm()).detach()
    assert distance(images) < 0.99 * distance(start)
    collapsed = 0.5 + 1e-4 * (start - 0.5)
    assert float(term(collapsed)) < 0.1 * float(term(start))


def test_the_valid_term_falls_when_features_collapse() -> None:
    random = torch.Generator().manual_seed(1)
    z = torch.randn(3, 8, 6, generator=random)
    spread = torch.tensor(12.0, dtype=torch.float64)
    valid = Diversity(DiversitySettings(measure="hsic", weight=1.0), spread)
    images = torch.zeros(3, 8, 1, 4, 4)
    apart, shrunk = (float(valid(images, z, scale * z)) for scale in (1.0, 0.01))
    shuffled = float(valid(images, z, z.flip(1)))
    assert apart > 10 * abs(shrunk)
    assert apart > shuffled


def test_layout_orders_restarts() -> None:
    placed = layout(torch.tensor([4, 1, 4, 1]))
    assert placed.classes.tolist() == [4, 1]
    assert placed.grid().tolist() == [[0, 2], [1, 3]]


def test_vendi_counts_different_samples() -> None:
    assert vendi_score(torch.eye(6)) == pytest.approx(6)
    assert vendi_score(torch.ones(6, 3)) == pytest.approx(1, abs=1e-6)
    assert vendi_score(torch.eye(3).repeat(2, 1)) == pytest.approx(3)


def test_measured_diversity() -> None:
    images = torch.zeros(5, 1, 2, 2)
    images[1] = 1
    features = torch.tensor([[0.0, 1], [1, 0], [5, 5], [1, 1], [2, 2]])
    failed = torch.tensor([False, False, True, False, False])
    measured = measured_diversity(images, features, torch.tensor([0, 0, 0, 1, 2]), failed)
    assert list(measured) == [0]
    assert measured[0].samples == 2
    assert measured[0].pixel_distance == pytest.approx(1)
    assert measured[0].feature_distance == pytest.approx(math.sqrt(2))
    assert measured[0].vendi == pytest.approx(2)
