"""Inversions in closed form: the GMI step, posteriors and their divergences, identity losses, views, students."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from attack_bench import CPU, attack, inverted, noise_images, public, target
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attacker.attacks.bound import Bound
from attacker.attacks.ifgmi import into_l1_ball
from attacker.attacks.posteriors import Flow, FlowShape, Full, Gaussian, Mixture, Posterior
from attacker.losses.augment import NUMBERS, augmented
from attacker.losses.identity import IdentityLoss, poincare
from attacker.priors.plg_gan import pseudo_labels
from attacker.priors.prior import Prior
from attacker.reconstructions import Reconstructions
from attacker.streams import Streams
from attacker.target import PublicSet, Target
from fedinverse.errors import ConfigError
from fedinverse.models import Features


def test_gmi_steps_as_torch_sgd() -> None:
    table = {"iterations": 5, "clamp": 1e9, "lr": 1e-2}
    victim, gmi = target(), attack("gmi", table)
    prior = gmi.prior(victim, public(), 0, CPU)
    labels = torch.tensor([0, 1, 4])
    result = gmi.invert(victim, prior, public(), labels, torch.Generator().manual_seed(2))
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(2)))
    z = Streams.of_labels(labels, seed).normal(100).requires_grad_(True)
    sgd = torch.optim.SGD([z], 1e-2, momentum=0.9, nesterov=True)
    for _ in range(5):
        images = prior.generator(z)
        assert prior.critic is not None
        loss = 100 * F.cross_entropy(victim.model(images), labels, reduction="sum") - prior.critic(images).sum()
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    torch.testing.assert_close(result.latent, z.detach(), rtol=1e-4, atol=1e-5)


def test_several_captures_share_one_loss() -> None:
    """L_id is the mean over the captured models: checked by a step of GMI written out, lambda 100."""
    table = {"iterations": 1, "clamp": 1e9, "lr": 1e-2, "momentum": 0.0}
    now, before = target(), target(seed=4)
    labels, gmi = torch.tensor([0, 4]), attack("gmi", table | {"captures": 2})
    prior = gmi.prior(None, public(), 0, CPU)

    def run(victim: Target) -> Reconstructions:
        return gmi.invert(victim, prior, public(), labels, torch.Generator().manual_seed(2))

    joint = run(replace(now, earlier=(before,)))
    z = attack("gmi", {"iterations": 0}).invert(now, prior, public(), labels, torch.Generator().manual_seed(2)).latent
    z.requires_grad_(True)
    images = prior.generator(z)
    assert prior.critic is not None
    losses = [F.cross_entropy(model(images), labels, reduction="sum") for model in (now.model, before.model)]
    (slope,) = torch.autograd.grad(50 * (losses[0] + losses[1]) - prior.critic(images).sum(), z)
    torch.testing.assert_close(joint.latent, z.detach() - 1e-2 * slope, rtol=1e-4, atol=1e-5)
    assert joint.cost.target_queries == 2 * (2 + 2)
    assert joint.notes == ()
    assert "1 of the 2 captures" in run(now).notes[0]


@pytest.mark.parametrize("name", ["gmi", "kedmi", "vmi", "plgmi", "ifgmi", "deepinversion"])
def test_one_capture_is_the_attack_on_one_model_bit_for_bit_and_two_equal_ones_are_to_rounding(name: str) -> None:
    victim = target()
    alone = inverted(name, [0, 3], of=victim)
    assert torch.equal(alone.latent, inverted(name, [0, 3], {"captures": 1}, of=victim).latent)
    twice = inverted(name, [0, 3], {"captures": 2}, of=replace(victim, earlier=(victim,)))
    torch.testing.assert_close(twice.latent, alone.latent, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["kedmi", "vmi", "plgmi", "ifgmi", "deepinversion"])
def test_every_attack_takes_several_captures(name: str) -> None:
    victim = target("mcnn_vib")
    joined = replace(victim, earlier=(target("mcnn_vib", seed=4),))
    table = {"captures": 2, "noise_draws": 2, "identity_loss": "logit"}
    alone, joint = inverted(name, [0, 3], table, of=victim), inverted(name, [0, 3], table, of=joined)
    assert not torch.equal(alone.latent, joint.latent)
    assert joint.images.isfinite().all()


def test_features_stay_in_their_ball() -> None:
    moves = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    radius = torch.tensor([0.5, 1.0, 2.0, 5.0, 100.0])
    near = into_l1_ball(moves, radius)
    norms = near.flatten(1).abs().sum(1)
    torch.testing.assert_close(norms[:4], radius[:4])
    assert torch.equal(near[4], moves[4])
    theta = (moves - near).flatten(1).abs().amax(1)  # what is left was shrunk by one theta
    kept = near != 0
    shrunk = (moves - near).abs()
    torch.testing.assert_close(shrunk[kept], theta[:, None, None].expand_as(moves)[kept])


def test_refined_features_fit_the_target_better() -> None:
    base = {"iterations": 2, "feature_iterations": 40, "feature_lr": 0.05}
    plain, joint = inverted("gmi", [0, 3], {"iterations": 2}), inverted("ifgmi", [0, 3], base)
    refined = inverted("ifgmi", [0, 3], base | {"joint": False})
    assert torch.equal(plain.latent, refined.latent)
    assert not torch.equal(plain.latent, joint.latent)  # published: z moves with the features
    assert joint.latent.abs().max() <= 1
    assert (refined.identity_loss < plain.identity_loss).all()
    assert (joint.identity_loss < plain.identity_loss).all()
    prior = attack("plgmi").prior(target(), public(), 0, CPU)
    critic = attack("gmi").prior(None, public(), 0, CPU).critic
    other = Prior("other", prior.generator, critic, prior.latent, prior.shape, "key")
    with pytest.raises(ConfigError, match="intermediate features"):
        attack("ifgmi").invert(target(), other, public(), torch.tensor([0]), torch.Generator())


def test_pseudo_labels_are_the_likeliest_images() -> None:
    probability = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    assert pseudo_labels(probability, 2).tolist() == [[0, 2], [1, 3]]
    assert pseudo_labels(probability, 9).shape == (2, 4)


def test_plg_needs_its_own_prior() -> None:
    prior = attack("vmi").prior(None, public(), 0, CPU)
    with pytest.raises(ConfigError, match="conditional"):
        attack("plgmi").invert(target(), prior, public(), torch.tensor([0]), torch.Generator())
    images = PublicSet(torch.zeros(8, 3, 64, 64, dtype=torch.uint8), "faces")
    with pytest.raises(ConfigError, match="public images"):
        attack("plgmi").prior(target(), images, 0, CPU)


def kl(q: Posterior, samples: int = 4, latent: int = 6) -> Tensor:
    eps = torch.randn(2, samples, latent, generator=torch.Generator().manual_seed(3))
    drawn: Tensor = q(eps).divergence.detach()
    return drawn


def flow(classes: int = 2) -> Flow:
    generator = torch.Generator().manual_seed(1)
    return Flow(classes, 6, FlowShape(3, 2, 7), generator)


@pytest.mark.parametrize("q", [Gaussian(2, 6), Full(2, 6), Mixture(2, 6, 2), flow()])
def test_every_posterior_starts_at_the_prior(q: Posterior) -> None:
    torch.testing.assert_close(kl(q), torch.zeros(2), atol=1e-5, rtol=0)
    eps = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(3))
    drawn = q(eps)
    torch.testing.assert_close(drawn.weight.sum(1), torch.ones(2))
    torch.testing.assert_close(drawn.z.square().sum(2).sum(), eps.square().sum(2).sum())  # perhaps permuted


@pytest.mark.parametrize("q", [Gaussian(2, 6), Full(2, 6), Mixture(2, 6, 2)])
def test_divergence_of_variance_e(q: Posterior) -> None:
    scale = q.log_diagonal if isinstance(q, Full) else q.log_sigma
    assert isinstance(scale, Tensor)
    nn.init.constant_(scale, 0.5)  # sigma^2 = e
    samples = 200_000 if isinstance(q, Mixture) else 2
    torch.testing.assert_close(kl(q, samples), torch.full((2,), 6 * (math.e - 2) / 2), atol=0.03, rtol=0)
    if not isinstance(q, Mixture):
        assert float(kl(q)[0]) / 6 == pytest.approx(0.35914, abs=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31))
def test_full_divergence_is_the_closed_form(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    q = Full(2, 6)
    for parameter in q.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=random)
    L, m = q.factor.detach(), q.mean.detach()
    normal = torch.distributions.MultivariateNormal(m, scale_tril=L)
    prior = torch.distributions.MultivariateNormal(torch.zeros(2, 6), torch.eye(6).expand(2, 6, 6))
    torch.testing.assert_close(kl(q), torch.distributions.kl_divergence(normal, prior), rtol=1e-4, atol=1e-4)


def test_flow_volume_is_its_determinant() -> None:
    q = flow(1)
    for parameter in q.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    eps = torch.randn(1, 1, 6, generator=torch.Generator().manual_seed(3))
    drawn = q(eps)
    jacobian = torch.autograd.functional.jacobian(lambda e: q(e).z.flatten(), eps).reshape(6, 6)
    expected = 0.5 * (drawn.z.square().sum() - eps.square().sum()) - torch.linalg.slogdet(jacobian).logabsdet
    assert float(drawn.divergence.detach()) == pytest.approx(float(expected.detach()), abs=1e-4)


def test_mixture_weights_its_components() -> None:
    q = Mixture(1, 1, 2)
    q.mean.data = torch.tensor([[[-1.0], [3.0]]])
    q.logits.data = torch.tensor([[0.0, math.log(3)]])
    drawn = q(torch.zeros(1, 4, 1))
    assert float((drawn.weight * drawn.z[..., 0]).sum().detach()) == pytest.approx(0.25 * -1 + 0.75 * 3)
    streams = Streams.of_labels(torch.tensor([0]), 0)
    assert float(q.sample(lambda size: streams.restarts(20_000, size)).mean()) == pytest.approx(2, abs=0.05)


def test_vmi_reduces_its_bound_and_stops_on_it() -> None:
    rough, fitted = (inverted("vmi", [0, 1], {"iterations": steps}).identity_loss for steps in (0, 100))
    assert fitted.mean() < rough.mean()
    stopped = inverted("vmi", [0, 0, 1], {"iterations": 1000, "patience": 1, "lr": 0.5, "max_batch": 1})
    assert stopped.cost.steps < 1000
    # Classes in batches of their own stop at different steps; only what was asked is counted.
    assert stopped.cost.target_queries < 2 * stopped.cost.steps + 3
    assert stopped.cost.target_queries % 50 == 3


def test_a_class_that_stopped_keeps_its_posterior() -> None:
    q = Gaussian(2, 3)
    watched = Bound(q, 2, patience=2)
    windows = [(5.0, 5.0), (6.0, 4.0), (5.5, 3.0), (9.0, 3.5), (9.0, math.nan)]  # class 0 stops in the third
    for window, bounds in enumerate(windows):
        nn.init.constant_(q.mean, float(window))
        over = [watched.stalled(torch.tensor(bounds)) for _ in range(50)]
        assert over == [False] * 49 + [window == 4]
    nn.init.constant_(q.mean, 9.0)
    watched.restore()
    assert q.mean[:, 0].tolist() == [2.0, 4.0]


def test_distributions_of_the_same_class_share_mu() -> None:
    few, many = inverted("kedmi", [2], {"iterations": 1}), inverted("kedmi", [2] * 400, {"iterations": 1})
    assert many.latent.std(0).mean() == pytest.approx(1, abs=0.05)
    assert few.cost.target_queries == 2
    assert many.cost.target_queries == 401


def seen(logits: Tensor) -> Features:
    return Features((), torch.zeros(len(logits), 2), logits)


def test_identity_losses_in_closed_form() -> None:
    labels = torch.tensor([0, 3])
    for classes in (5, 10, 1000):
        level = torch.ones(2, classes)
        assert IdentityLoss("max_margin")(seen(level), labels).tolist() == [0, 0]
        assert poincare(level, labels).tolist() == pytest.approx([9.903, 9.903], abs=0.05)
        ce = IdentityLoss("ce")(seen(level), labels)
        assert ce.tolist() == pytest.approx([math.log(classes)] * 2)
    peaked = F.one_hot(labels, 5).float() * 7
    assert poincare(peaked, labels).isfinite().all()
    assert IdentityLoss("max_margin")(seen(peaked), labels).tolist() == [-7, -7]
    anchored = IdentityLoss("logit", torch.ones(2))
    assert anchored(seen(peaked), labels).tolist() == [-6, -6]
    assert IdentityLoss("logit")(seen(peaked), labels).tolist() == [-7, -7]  # a student's: not held near anything


def test_augmented_views_are_images_with_a_gradient() -> None:
    images = noise_images(4)[:, 0].requires_grad_(True)
    chance = torch.rand(4, NUMBERS, generator=torch.Generator().manual_seed(0))
    views = augmented(images, chance)
    assert views.shape == images.shape
    assert 0 <= float(views.min()) <= float(views.max()) <= 1
    (slope,) = torch.autograd.grad(views.sum(), images)
    assert (slope.flatten(1).abs().sum(1) > 0).all()
    still = augmented(images, torch.full((4, NUMBERS), 0.5))
    torch.testing.assert_close(still, images, atol=1e-5, rtol=0)


def test_students_are_cached_and_must_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path))
    table = {"students": 2, "distillation": {"width": 0.1, "steps": 2}}
    first = inverted("gmi", [0], table)
    assert len(list((tmp_path / "priors").glob("student-*.safetensors"))) == 2
    assert torch.equal(first.images, inverted("gmi", [0], table).images)
    wrong = {"students": 1, "distillation": {"models": ["vgg16"]}}
    with pytest.raises(ConfigError, match="vgg16"):
        inverted("gmi", [0], wrong)
