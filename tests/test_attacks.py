"""One harness over all registered attacks: the contract, every switch, misfits, failures."""

import math
from pathlib import Path
from typing import Any

import attack_bench
import pytest
import torch
from attack_bench import CPU, SWITCHES, TINY, attack, check, inverted, public, target
from torch import Tensor

from attacker import target as public_view
from attacker.attacks.attack import Attack
from attacker.attacks.case import Case
from attacker.attacks.registry import attack_names, make_attack
from attacker.attacks.selection import Candidates
from attacker.inversion import Inversion, invert, place
from attacker.priors.prior import Prior
from attacker.streams import Streams
from attacker.target import Target
from fedinverse.data.source import unit
from fedinverse.errors import ConfigError
from fedinverse.layout import PRIOR_ONLY
from fedinverse.models import build, for_inference
from fedinverse.seeds import generator
from fedinverse.storage import to_weights, weights_sha256

UNCOUPLED = {"deepinversion": {"bn": 0.0}}  # its statistics are those of the batch


@pytest.fixture
def in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Invert in float64, where rounding is 1e-16: what is left of a difference is another stream or a coupled loss.

    In float32 a batch of another size rounds otherwise, which Adam divides by a small slope and which flips the winner
    of a max-pooling: differences of .01 were seen, which a real coupling can have too.
    """
    monkeypatch.setattr(attack_bench, "DTYPE", torch.float64)
    monkeypatch.setattr(public_view, "unit", lambda images, device: unit(images, device).to(torch.get_default_dtype()))
    for name in ("normal", "uniform"):
        drawn = getattr(Streams, name)
        monkeypatch.setattr(
            Streams, name, lambda self, *shape, drawn=drawn: drawn(self, *shape).to(torch.get_default_dtype())
        )


def test_the_harness_covers_every_attack() -> None:
    assert attack_names() == sorted(TINY)


def test_a_coupled_loss_would_be_seen(in_double: None, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Case.loss

    def coupled(self: Case, images: Tensor, z: Tensor, weight: float = 1.0) -> Tensor:
        return plain(self, images - 1e-6 * images.mean(0), z, weight)

    monkeypatch.setattr(Case, "loss", coupled)
    alone, among = inverted("kedmi", [3]).latent[0], inverted("kedmi", [0, 3, 4, 0]).latent[1]
    assert (alone - among).abs().max() > 1e-9


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
        *((name, UNCOUPLED.get(name, {})) for name in TINY),
        *((name, {"identity_loss": "logit", "augment": 2} | UNCOUPLED.get(name, {})) for name in TINY),
        ("vmi", {"posterior": "flow"}),
        ("vmi", {"posterior": "gmm"}),
    ],
)
def test_a_reconstruction_does_not_feel_the_others(name: str, table: dict[str, Any], in_double: None) -> None:
    alone = inverted(name, [3], table).latent[0]
    for labels, table_ in (([0, 3, 4, 0], table), ([4, 0, 3], table | {"max_batch": 2})):
        among = inverted(name, labels, table_).latent[labels.index(3)]
        torch.testing.assert_close(alone, among, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", attack_names())
def test_no_steps_give_unoptimised_samples(name: str) -> None:
    none = {"iterations": 0} | ({"feature_iterations": 0} if name == "ifgmi" else {})
    result = inverted(name, [1, 2], none)
    assert result.cost.steps == 0
    prior = attack(name).prior(target(), public(), 0, CPU)
    with torch.no_grad():
        torch.testing.assert_close(result.images, prior.images(result.latent, result.labels))
    assert float(result.latent.mean()) == pytest.approx(0, abs=0.3)
    assert float(result.latent.std()) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("name", attack_names())
def test_misfits_are_refused(name: str) -> None:
    tested = attack(name)
    with pytest.raises(ConfigError, match="empty"):
        inverted(name, [])
    with pytest.raises(ConfigError, match="class 5 cannot"):
        inverted(name, [0, 5])
    prior = tested.prior(target(), public(), 0, CPU)
    other = for_inference(build("resnet18_32", 5, width=0.1, seed=0))
    faces = Target(other, "0", 1, CPU)
    with pytest.raises(ConfigError, match="prior"):
        tested.invert(faces, prior, public(), torch.tensor([0]), torch.Generator())
    if tested.needs.critic:
        bare = Prior("bare", prior.generator, None, prior.latent, prior.shape, "key")
        with pytest.raises(ConfigError, match="critic"):
            tested.invert(target(), bare, public(), torch.tensor([0]), torch.Generator())
    if tested.needs.target_at_prior:
        with pytest.raises(ConfigError, match="target"):
            tested.prior(None, public(), 0, CPU)
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


@pytest.mark.parametrize(("name", "table"), [("gmi", {"initial_selection": 8}), ("vmi", {"posterior": "flow"})])
def test_a_switch_does_not_shift_what_another_draws(name: str, table: dict[str, Any]) -> None:
    still = table | {"iterations": 0}
    start = inverted(name, [0, 3], still)
    pushed = {"identity_loss": "logit"} | ({} if name == "vmi" else {"augment": 2})
    assert torch.equal(start.latent, inverted(name, [0, 3], still | pushed).latent)


def test_candidates_in_colour_are_asked_twice() -> None:
    prior = attack("gmi").prior(None, public(), 0, CPU)
    colour = Prior("colour", prior.generator, None, prior.latent, (3, 64, 64), "key")
    counts = [Candidates(target(), one, 8, torch.Generator()).queries for one in (prior, colour)]
    assert counts == [8, 16]
    assert inverted("gmi", [0, 3], {"initial_selection": 8}).cost.target_queries == 2 * attack_bench.STEPS + 8 + 2


def test_a_conditional_prior_alone_is_asked_for_the_classes_it_is_judged_on(tmp_path: Path) -> None:
    plgmi, victim, labels = attack("plgmi"), target(), torch.tensor([4, 4, 1])
    invert(plgmi, Inversion(tmp_path / "one"), victim, public(), labels, 0)
    plain = Inversion(tmp_path / "one").load(PRIOR_ONLY)
    prior = plgmi.prior(victim, public(), 0, CPU)
    z = torch.randn(3, prior.latent, generator=generator(0, "attack", "plgmi"))
    with torch.no_grad():
        torch.testing.assert_close(plain.images, prior.generator(z, labels))
        assert not torch.allclose(plain.images, prior.generator(z, torch.arange(3)))


def test_inversions_of_another_version_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gmi = attack("gmi")
    kind: type[Attack] = type(gmi)

    def where() -> Path:
        return place(tmp_path, "gmi", gmi, {"kind": "gmi"}, "0" * 64, torch.tensor([0]), 0, "public").path

    before = where()
    assert where() == before
    monkeypatch.setattr(kind, "version", kind.version + 1)
    assert where() != before


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
