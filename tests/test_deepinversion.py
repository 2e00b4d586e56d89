"""DeepInversion in closed form, and what it does to an image."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from attack_bench import CPU, attack, inverted, noise_images, public, target
from torch import Tensor, nn

from attacker.attacks.deepinversion import jittered, statistics, variation
from attacker.target import Target
from fedinverse.models import Classifier, Features


class Linear(Classifier):
    """Logits W x of an image's pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.input_shape, self.classes = (1, 4, 4), 3
        random = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(3, 16, generator=random), requires_grad=False)

    def features(self, images: Tensor) -> Features:
        flat = images.flatten(1)
        return Features((), flat, flat @ self.weight.T)


def test_a_step_on_a_linear_target_without_any_prior_is_the_closed_form() -> None:
    """The gradient of CE by x is W^T (p - onehot); Adam's first step is its sign times the rate."""
    linear, labels = Linear(), torch.tensor([0, 2])
    tested = attack("deepinversion", {"bn": 0, "tv": 0, "l2": 0, "shift": 0, "iterations": 1, "lr": 0.01})
    images = public()
    small = replace(images, images=images.images[:, :, :4, :4])
    victim = Target(linear, "0", 1, CPU)
    prior = tested.prior(victim, small, 0, CPU)
    start = attack("deepinversion", {"iterations": 0}).invert(victim, prior, small, labels, torch.Generator())
    after = tested.invert(victim, prior, small, labels, torch.Generator())
    x = start.images.flatten(1)
    slope = ((x @ linear.weight.T).softmax(1) - F.one_hot(labels, 3)) @ linear.weight * x * (1 - x)
    torch.testing.assert_close(after.latent, start.latent - 0.01 * slope.sign(), rtol=0, atol=1e-5)


def test_the_batchnorm_term_is_nothing_at_the_running_statistics() -> None:
    layer = nn.BatchNorm2d(2).eval()
    values = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    variance, mean = torch.var_mean(values, (0, 2, 3), correction=0)
    layer.running_mean, layer.running_var = mean, variance
    with statistics(layer) as distances:
        layer(values)
        layer(values + torch.tensor([3.0, 4.0])[:, None, None])
        layer(mean[:, None, None] + 2 * (values - mean[:, None, None]))
    layer(values)  # no longer collected
    still, shifted, spread = (float(distance) for distance in distances)
    assert still == pytest.approx(0, abs=1e-6)
    assert shifted == pytest.approx(5, rel=1e-5)
    assert spread == pytest.approx(float(3 * variance.norm()), rel=1e-5)


def test_variation_of_an_edge() -> None:
    image = torch.zeros(2, 1, 4, 4)
    image[1, :, :, 2:] = 1  # an edge: 4 pairs across, 3 on each diagonal
    assert variation(image).tolist() == pytest.approx([0, 2 + 2 * 3**0.5])


def test_shifts_stay_within_their_range() -> None:
    images = noise_images(1)[:, 0]
    random = torch.Generator().manual_seed(0)
    moves = {(down, across) for down in (-1, 0, 1) for across in (-1, 0, 1)}
    seen = {
        move
        for _ in range(60)
        for moved in [jittered(images, 1, random)]
        for move in moves
        if torch.equal(moved, images.roll(move, (2, 3)))
    }
    assert seen == moves
    assert torch.equal(jittered(images, 0, random), images)


def test_statistics_bring_images_near_the_captured_ones() -> None:
    plain, held = (inverted("deepinversion", [0, 3], {"iterations": 30, "bn": bn}) for bn in (0.0, 10.0))

    def distance(images: Tensor) -> float:
        network = target().plain
        with statistics(network) as distances, torch.no_grad():
            network(images)
        return float(torch.stack(distances).sum())

    assert distance(held.images) < distance(plain.images)
    assert plain.notes == held.notes == ()


def test_a_target_without_batchnorm_is_said() -> None:
    victim = target("lenet5")
    noted, silent = (inverted("deepinversion", [0], {"bn": bn}, of=victim) for bn in (10.0, 0.0))
    assert "no BatchNorm layers" in noted.notes[0]
    assert len(noted.notes) == 1
    assert silent.notes == ()
    assert torch.equal(noted.images, silent.images)


def test_no_public_image_is_looked_at() -> None:
    other = replace(public(), images=public().images.flip(0), key="other")
    victim, tested = target(), attack("deepinversion")
    one, two = (
        tested.invert(victim, tested.prior(victim, images, 0, CPU), images, torch.tensor([0]), torch.Generator())
        for images in (public(), other)
    )
    assert torch.equal(one.images, two.images)
