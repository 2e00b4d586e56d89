"""One harness over all registered attacks: the contract, every switch, misfits, failures."""

import math
from typing import Any

import pytest
import torch
from attack_bench import CPU, SWITCHES, TINY, attack, check, inverted, public, target
from torch import Tensor

from attacker.attacks.registry import attack_names, make_attack
from attacker.priors.prior import Prior
from attacker.streams import Streams
from attacker.target import Target
from fedinverse.errors import ConfigError
from fedinverse.models import build, for_inference
from fedinverse.storage import to_weights, weights_sha256


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
