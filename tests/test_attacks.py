"""Every registered attack through one harness, then the closed forms of their losses and what their parts promise."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attacker.attack import Attack, PublicSet, Reconstructions, Target
from attacker.augment import NUMBERS, augmented
from attacker.diversity import (
    Diversity,
    DiversitySettings,
    layout,
    measured_diversity,
    vendi_score,
)
from attacker.identity import IdentityLoss, poincare
from attacker.ifgmi import into_l1_ball
from attacker.posteriors import Flow, Full, Gaussian, Mixture, Posterior
from attacker.priors import kplus1
from attacker.priors.kplus1 import discriminator_loss, entropy
from attacker.priors.plg_gan import pseudo_labels
from attacker.priors.prior import Prior
from attacker.priors.spectral import baked, normalise
from attacker.priors.wgan_gp import gradient_penalty
from attacker.public_view import public_view
from attacker.registry import attack_names, make_attack
from attacker.streams import Streams
from attacker.vmi import Bound
from fedinverse.dependence import kernel_matrix, ridge_hsic
from fedinverse.errors import ConfigError
from fedinverse.models import Classifier, Features, build, for_inference
from fedinverse.storage import to_weights, weights_sha256

CPU = torch.device("cpu")
STEPS = 3
TINY: dict[str, dict[str, Any]] = {
    "gmi": {"iterations": STEPS, "prior": {"width": 0.1, "steps": 1, "critic_steps": 1, "batch_size": 4}},
    "kedmi": {"iterations": STEPS, "prior": {"width": 0.1, "steps": 1, "critic_steps": 1, "batch_size": 4}},
    "vmi": {"iterations": STEPS, "prior": {"width": 0.1, "steps": 1, "batch_size": 4}},
    "plgmi": {
        "iterations": STEPS,
        "lr": 1e-2,
        "prior": {"width": 0.1, "steps": 1, "critic_steps": 1, "batch_size": 4, "top": 3},
    },
    "ifgmi": {
        "iterations": 1,
        "feature_iterations": 1,
        "levels": 2,
        "prior": {"width": 0.1, "steps": 1, "critic_steps": 1, "batch_size": 4},
    },
}
# Attacks that optimise one latent per reconstruction; the others fit one distribution per class.
POINTS = {"gmi", "ifgmi", "plgmi"}
SWITCHES: list[tuple[str, dict[str, Any]]] = [
    *((name, {"identity_loss": loss}) for name in TINY for loss in ("logit", "poincare")),
    *((name, {"identity_loss": "max_margin"}) for name in TINY if name != "plgmi"),  # its default
    *((name, {"augment": 3}) for name in TINY),
    *((name, {"students": 1, "distillation": {"width": 0.1, "steps": 2}}) for name in TINY),
    ("gmi", {"initial_selection": 8}),
    ("kedmi", {"draws": 3}),
    *(("vmi", {"posterior": family}) for family in ("full", "gmm", "flow")),
    ("vmi", {"optimiser": "sgd", "lr": 1e-4}),
]


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path_factory.getbasetemp() / "attack-cache"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small are slower on two threads, and their sums depend on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def target(name: str = "mcnn", seed: int = 3) -> Target:
    model = build(name, 5, width=0.1, seed=seed)
    return Target(for_inference(model), weights_sha256(to_weights(model)), 1, CPU)


def public(count: int = 24) -> PublicSet:
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(256, (count, 1, 32, 32), generator=generator, dtype=torch.uint8)
    return PublicSet(images.contiguous(memory_format=torch.channels_last), "public")


def attack(name: str, table: dict[str, Any] | None = None) -> Attack:
    return make_attack({"kind": name} | TINY[name] | (table or {}), "attacks", "test")


def inverted(
    name: str,
    labels: list[int],
    table: dict[str, Any] | None = None,
    seed: int = 7,
    of: Target | None = None,
) -> Reconstructions:
    made, victim = attack(name, table), of or target()
    prior = made.prior(victim, public(), 0, CPU)
    return made.invert(victim, prior, public(), torch.tensor(labels), torch.Generator().manual_seed(seed))


def check(result: Reconstructions, labels: list[int]) -> None:
    assert result.images.shape == (len(labels), 1, 32, 32)
    assert result.images.dtype == torch.float32
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    assert result.labels.tolist() == labels
    assert result.latent.shape == (len(labels), 100)
    assert result.identity_loss.isfinite().all()
    assert ((result.confidence >= 0) & (result.confidence <= 1)).all()
    assert not result.failed.any()
    assert result.cost.steps == STEPS
    assert result.cost.target_queries > 0
    assert all(not value.requires_grad and not value.is_inference() for value in (result.images, result.latent))


# ------------------------------------------------------------------ all of them


def test_the_harness_covers_every_attack() -> None:
    assert attack_names() == sorted(TINY)


@pytest.mark.parametrize("name", attack_names())
def test_contract(name: str) -> None:
    victim, labels = target(), [0, 3, 0, 4]
    before = to_weights(victim.model)
    result = inverted(name, labels, of=victim)
    check(result, labels)
    again = inverted(name, labels, of=victim)
    assert torch.equal(result.images, again.images)
    assert torch.equal(result.latent, again.latent)
    assert not torch.equal(result.images, inverted(name, labels, seed=8, of=victim).images)
    assert not torch.equal(result.latent[0], result.latent[2])  # restarts differ
    after = to_weights(victim.model)
    assert weights_sha256(before) == weights_sha256(after)
    assert not victim.model.training
    assert not any(weight.requires_grad or weight.grad is not None for weight in victim.model.parameters())


@pytest.mark.parametrize(("name", "table"), SWITCHES)
def test_every_switch_works(name: str, table: dict[str, Any]) -> None:
    labels = [0, 3, 0, 4]
    result = inverted(name, labels, table)
    check(result, labels)
    assert torch.equal(result.images, inverted(name, labels, table).images)
    assert not torch.equal(result.images, inverted(name, labels).images)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        *((name, {}) for name in TINY),
        *((name, {"identity_loss": "logit", "augment": 2}) for name in TINY),
        ("vmi", {"posterior": "flow"}),
        ("vmi", {"posterior": "gmm"}),
    ],
)
def test_a_reconstruction_does_not_feel_the_others(name: str, table: dict[str, Any]) -> None:
    alone = inverted(name, [3], table).latent[0]
    for labels, table_ in (([0, 3, 4, 0], table), ([4, 0, 3], table | {"max_batch": 2})):
        among = inverted(name, labels, table_).latent[labels.index(3)]
        # Adam divides rounding by a small slope; another stream's latent is 1 away
        torch.testing.assert_close(alone, among, rtol=0, atol=5e-3)


@pytest.mark.parametrize("name", attack_names())
def test_no_steps_give_unoptimised_samples(name: str) -> None:
    none = {"iterations": 0} | ({"feature_iterations": 0} if name == "ifgmi" else {})
    result = inverted(name, [1, 2], none)
    assert result.cost.steps == 0
    assert result.images.isfinite().all()


@pytest.mark.parametrize("name", attack_names())
def test_misfits_are_refused(name: str) -> None:
    made = attack(name)
    with pytest.raises(ConfigError, match="empty"):
        inverted(name, [])
    with pytest.raises(ConfigError, match="class 5 cannot"):
        inverted(name, [0, 5])
    prior = made.prior(target(), public(), 0, CPU)
    other = for_inference(build("resnet18_32", 5, width=0.1, seed=0))
    faces = Target(other, "0", 1, CPU)
    with pytest.raises(ConfigError, match="prior"):
        made.invert(faces, prior, public(), torch.tensor([0]), torch.Generator())
    if made.needs.critic:
        bare = Prior("bare", prior.generator, None, prior.latent, prior.shape, "key")
        with pytest.raises(ConfigError, match="critic"):
            made.invert(target(), bare, public(), torch.tensor([0]), torch.Generator())
    if made.needs.target_at_prior:
        with pytest.raises(ConfigError, match="target"):
            made.prior(None, public(), 0, CPU)
    with pytest.raises(ConfigError, match="identity_loss"):
        attack(name, {"identity_los": "ce"})


@pytest.mark.parametrize("name", attack_names())
@pytest.mark.parametrize("table", [{}, {"diversity": {"measure": "hsic_paper"}}])
def test_a_nan_fails_alone(name: str, table: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Streams.normal

    def broken(self: Streams, *shape: int) -> Tensor:
        numbers = drawn(self, *shape)
        if len(self) > 1:
            numbers[1] = math.nan
        return numbers

    monkeypatch.setattr(Streams, "normal", broken)
    result = inverted(name, [0, 1, 2, 3], table)
    assert result.failed.tolist() == [False, True, False, False]
    assert (result.images[1] == 0).all()
    assert result.images.isfinite().all()


def test_unknown_attack_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'kedmi'"):
        make_attack({"kind": "kedmy"}, "attacks.0", "file.toml")


@pytest.mark.parametrize("name", attack_names())
def test_noise_of_a_vib_head(name: str) -> None:
    labels = [0, 3]
    plain = inverted(name, labels, of=target("mcnn_vib"))
    noisy = inverted(name, labels, {"noise_draws": 3, "augment": 2}, of=target("mcnn_vib"))
    check(noisy, labels)
    assert not torch.equal(plain.images, noisy.images)
    with pytest.raises(ConfigError, match="noise_draws"):
        inverted(name, labels, {"noise_draws": 3})


# ------------------------------------------------------------------ diversity


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


def noise_images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 1, 32, 32, generator=torch.Generator().manual_seed(seed))


def term(images: Tensor) -> Tensor:
    paper = DiversitySettings(measure="hsic_paper", weight=1.0)
    return Diversity(paper)(images, torch.zeros(*images.shape[:2], 3), torch.zeros(*images.shape[:2], 3))


def test_the_papers_term_is_ridge_hsic_of_the_halves() -> None:
    images = noise_images(9)
    halves = images[:4].flatten(1), images[4:8].flatten(1)
    first, second = (kernel_matrix(half, "gaussian", 5.0) for half in halves)
    expected = ridge_hsic(first, second)
    assert float(term(images)) == pytest.approx(9 * float(expected), rel=1e-5)


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
    told, shrunk = (float(valid(images, z, scale * z)) for scale in (1.0, 0.01))
    shuffled = float(valid(images, z, z.flip(1)))
    assert told > 10 * abs(shrunk)
    assert told > shuffled


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


# ------------------------------------------------------------------ priors


def test_gradient_penalty_of_a_linear_critic() -> None:
    class Linear(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) @ torch.tensor([1.0, 2.0, 2.0, 0.0])  # norm 3

    real, fake = torch.rand(6, 1, 2, 2), torch.rand(6, 1, 2, 2)
    penalty = gradient_penalty(Linear(), real, fake, torch.rand(6, 1, 1, 1))
    assert 10 * float(penalty) == pytest.approx(40, rel=1e-5)


def unsupervised(classes: int, constant: float) -> float:
    logits = torch.full((4, classes), constant, dtype=torch.float64)
    soft = torch.full((4, classes), 1 / classes, dtype=torch.float64)
    return float(discriminator_loss(logits, soft, logits, logits)) - math.log(classes)  # uniform D: CE = ln K


@pytest.mark.parametrize(("classes", "value"), [(5, 0.98704), (10, 1.24660), (1000, 3.45488)])
def test_kplus1_loss_of_constant_logits(classes: int, value: float) -> None:
    assert unsupervised(classes, -math.log(classes)) == pytest.approx(math.log(2))
    assert unsupervised(classes, 0.0) == pytest.approx(value, abs=5e-6)
    logits = torch.zeros(6, classes, dtype=torch.float64)
    assert float(entropy(logits)) == pytest.approx(6 * math.log(classes))
    realness = torch.logsumexp(logits, 1)
    assert float(F.softplus(-realness).mean()) == pytest.approx(math.log(1 + 1 / classes))


def kplus1_prior(table: dict[str, Any], victim: Target, images: PublicSet | None = None) -> Prior:
    return attack("kedmi", {"prior": TINY["kedmi"]["prior"] | table}).prior(victim, images or public(), 0, CPU)


def test_kplus1_is_cached_per_target() -> None:
    first = kplus1_prior({}, target())
    again = kplus1_prior({}, target())
    assert again.key == first.key
    assert again.seconds == 0
    assert weights_sha256(to_weights(first.generator)) == weights_sha256(to_weights(again.generator))
    assert kplus1_prior({}, target(seed=4)).key != first.key


def test_kplus1_starts_warm() -> None:
    first = kplus1_prior({}, target())
    made = attack("kedmi").warm_from(first.key)  # type: ignore[attr-defined]
    warm = made.prior(target(seed=4), public(), 0, CPU)
    assert warm.key not in {first.key, kplus1_prior({}, target(seed=4)).key}
    with pytest.raises(ConfigError, match="warm_start"):
        kplus1_prior({"warm_start": "f" * 64}, target(seed=4))


def test_kplus1_asks_the_target_once_and_leaves_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def view(model: Classifier, images: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        asked.append(len(images))
        return public_view(model, images, device)

    monkeypatch.setattr(kplus1, "public_view", view)
    victim = target(seed=9)
    before = weights_sha256(to_weights(victim.model))
    kplus1_prior({"steps": 4}, victim)
    assert asked == [24]
    assert weights_sha256(to_weights(victim.model)) == before
    assert not victim.model.training


def test_kplus1_refuses_images_of_another_shape() -> None:
    images = PublicSet(torch.zeros(8, 3, 64, 64, dtype=torch.uint8), "faces")
    with pytest.raises(ConfigError, match="public images"):
        kplus1_prior({}, target(), images)


def test_minibatch_discrimination_is_inert_at_the_start() -> None:
    torch.manual_seed(0)
    compare = kplus1.MinibatchDiscrimination(4096)
    features = F.leaky_relu(torch.randn(8, 4096), 0.2)
    assert compare(features).abs().max() == 0
    assert float(compare(torch.zeros(8, 4096))[0, 0].detach()) == pytest.approx(7)
    D = kplus1.Discriminator((1, 32, 32), 5, 0.1, True)
    images = torch.rand(6, 1, 32, 32)
    together, apart = D(images, kinds=3)[1], torch.cat([D(part)[1] for part in torch.split(images, 2)])
    torch.testing.assert_close(together, apart)
    kplus1_prior({"minibatch_discrimination": True}, target())


# ------------------------------------------------------------------ inversions


def test_gmi_steps_as_torch_sgd() -> None:
    table = {"iterations": 5, "clamp": 1e9, "lr": 1e-2}
    victim, made = target(), attack("gmi", table)
    prior = made.prior(victim, public(), 0, CPU)
    labels = torch.tensor([0, 1, 4])
    result = made.invert(victim, prior, public(), labels, torch.Generator().manual_seed(2))
    z = Streams.of_labels(labels, torch.Generator().manual_seed(2)).normal(100).requires_grad_(True)
    sgd = torch.optim.SGD([z], 1e-2, momentum=0.9, nesterov=True)
    for _ in range(5):
        images = prior.generator(z)
        assert prior.critic is not None
        loss = 100 * F.cross_entropy(victim.model(images), labels, reduction="sum") - prior.critic(images).sum()
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    torch.testing.assert_close(result.latent, z.detach(), rtol=1e-4, atol=1e-5)


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
    plain, refined = inverted("gmi", [0, 3], {"iterations": 2}), inverted("ifgmi", [0, 3], base)
    assert torch.equal(plain.latent, refined.latent)
    assert (refined.identity_loss < plain.identity_loss).all()
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


def test_spectral_norm_is_baked_in() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    normed = copy.deepcopy(plain)
    normalise(normed)
    plain.load_state_dict(baked(normed))
    for layer in (plain[0], plain[2]):
        assert isinstance(layer, nn.Linear)
        assert float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) == pytest.approx(1, abs=1e-3)


def kl(q: Posterior, samples: int = 4, latent: int = 6) -> Tensor:
    eps = torch.randn(2, samples, latent, generator=torch.Generator().manual_seed(3))
    drawn: Tensor = q(eps).divergence.detach()
    return drawn


def flow(classes: int = 2) -> Flow:
    generator = torch.Generator().manual_seed(1)
    return Flow(classes, 6, levels=3, steps=2, hidden=7, generator=generator)


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
    streams = Streams.of_labels(torch.tensor([0]), torch.Generator().manual_seed(0))
    assert float(q.sample(streams, 20_000, 1, CPU).mean()) == pytest.approx(2, abs=0.05)


def test_vmi_reduces_its_bound_and_stops_on_it() -> None:
    rough, fitted = (inverted("vmi", [0, 1], {"iterations": steps}).identity_loss for steps in (0, 100))
    assert fitted.mean() < rough.mean()
    assert inverted("vmi", [0], {"iterations": 1000, "patience": 1, "lr": 0.5}).cost.steps < 1000


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


# ------------------------------------------------------------------ identity losses and views


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
    anchored = IdentityLoss("logit", torch.ones(2, 2))
    assert anchored(seen(peaked), labels).tolist() == [-6, -6]


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
