"""Priors in closed form: gradient penalty, the K+1 losses, caching, spectral norm."""

import copy
import math
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attack_bench import CPU, TINY, attack, public, target
from torch import Tensor, nn

from attacker.priors import checkpoint, kplus1, prior
from attacker.priors.gan import baked, normalise
from attacker.priors.instance_norm import keeping_layout
from attacker.priors.kplus1 import discriminator_loss, entropy
from attacker.priors.prior import Prior, cached, prior_path, samples_of, trained_prior
from attacker.priors.wgan_gp import WganGp, WganGpSettings, gradient_penalty
from attacker.target import PublicSet, Target, public_view
from fedinverse.errors import ConfigError, IntegrityError
from fedinverse.models import Classifier
from fedinverse.progress import Progress
from fedinverse.storage import read_metadata, to_weights, weights_sha256


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache that outlives the tests holds their priors already; what they count is the training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDINVERSE_CACHE", str(tmp_path_factory.mktemp("priors")))
        yield


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
    assert again.seconds == first.seconds > 0
    assert weights_sha256(to_weights(first.generator)) == weights_sha256(to_weights(again.generator))
    assert kplus1_prior({}, target(seed=4)).key != first.key


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


def test_who_waits_for_a_prior_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path))
    monkeypatch.setattr(prior, "_EVERY", 0.01)
    said: list[tuple[str, int, int]] = []
    heard = threading.Event()

    def listen(what: str, done: int, total: int) -> None:
        said.append((what, done, total))
        heard.set()

    def slow(progress: Progress) -> dict[str, str]:
        waiting.start()
        progress("training", 1, 9)
        assert heard.wait(60)
        return {"seconds": "1"}

    def never(progress: Progress) -> dict[str, str]:
        raise AssertionError

    def wait() -> None:
        about.update(cached("any", "k" * 16, nn.ModuleDict({"one": nn.Linear(1, 1)}), never, listen))

    about: dict[str, str] = {}
    waiting = threading.Thread(target=wait)
    cached("any", "k" * 16, nn.ModuleDict({"one": nn.Linear(1, 1)}), slow)
    waiting.join(60)
    assert said[0] == ("training (another process)", 1, 9)
    assert about["seconds"] == "1"
    assert not list(tmp_path.rglob("*.progress"))


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


def test_spectral_norm_is_baked_in() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    normed = copy.deepcopy(plain)
    normalise(normed)
    plain.load_state_dict(baked(normed))
    for layer in (plain[0], plain[2]):
        assert isinstance(layer, nn.Linear)
        assert float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) == pytest.approx(1, abs=1e-3)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("name", ["gmi", "kedmi", "plgmi", "vmi"])
def test_a_killed_training_goes_on_to_the_same_weights(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    steps, kept = 5, 3
    trained = attack(name, {"prior": TINY[name]["prior"] | {"steps": steps}})
    progress: list[int] = []

    def whole() -> Prior:
        return trained.prior(target(), public(), 11, CPU, lambda what, done, total: progress.append(done))

    def killed(what: str, done: int, total: int) -> None:
        if done > kept:
            raise KilledError

    first = whole()
    path = prior_path(first.name, first.key)
    path.unlink()
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)  # a checkpoint after every step
    with pytest.raises(KilledError):
        trained.prior(target(), public(), 11, CPU, killed)
    file = path.with_suffix(".checkpoint")
    assert not path.exists()
    assert read_metadata(file)["step"] == str(kept)
    progress.clear()
    again = whole()
    assert progress == [kept, *range(kept + 1, steps + 1)]
    assert not file.exists()
    assert weights_sha256(to_weights(again.generator)) == weights_sha256(to_weights(first.generator))
    if first.critic is not None:
        assert again.critic is not None
        assert weights_sha256(to_weights(again.critic)) == weights_sha256(to_weights(first.critic))


def test_a_checkpoint_of_something_else_is_named() -> None:
    trained = attack("gmi", {"prior": TINY["gmi"]["prior"] | {"steps": 2}})
    prior = trained.prior(None, public(), 12, CPU)
    path = prior_path(prior.name, prior.key)
    file = path.with_suffix(".checkpoint")
    path.rename(file)  # weights, but no training
    with pytest.raises(IntegrityError, match=re.escape(str(file))):
        trained.prior(None, public(), 12, CPU)
    file.unlink()


def test_a_prior_in_tf32_is_another_one_and_a_gpus() -> None:
    """The settings of fp32, which the keys of priors in caches and packages name, stay what they were."""
    exact, lowered = WganGp(WganGpSettings(steps=3)), WganGp(WganGpSettings(steps=3, precision="tf32"))
    assert samples_of(exact, public(), 0) != samples_of(lowered, public(), 0)
    with pytest.raises(ConfigError, match="'tf32' is a CUDA device's"):
        trained_prior(lowered, None, public(), 0, CPU)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_instance_norm_of_an_accelerator_is_pytorchs(layout: torch.memory_format) -> None:
    """Values, gradients and gradients of gradients, which a gradient penalty needs; in double precision."""
    random = torch.Generator().manual_seed(0)
    features = torch.randn(3, 4, 5, 5, generator=random, dtype=torch.float64).contiguous(memory_format=layout)
    weight, bias = (torch.randn(4, generator=random, dtype=torch.float64) for _ in range(2))
    results = []
    for norm in (
        lambda x: keeping_layout(x, weight, bias, 1e-5),
        lambda x: F.instance_norm(x, None, None, weight, bias),
    ):
        x = features.clone().requires_grad_(True)
        y = norm(x)
        (slope,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
        (bend,) = torch.autograd.grad(slope.square().sum(), x)
        results.append((y, slope, bend))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert results[0][0].is_contiguous(memory_format=layout)
