"""Lowered precision: used where gradients agree with fp32, refused or left out where they do not."""

import pytest
import torch
import torch.nn.functional as F
from attack_bench import CPU, attack, inverted, public, target

from attacker.acceleration import precision
from attacker.acceleration.precision import AGREE, agreement, in_bf16, in_precision
from attacker.target import Target
from fedinverse.errors import ConfigError
from fedinverse.models import build, for_inference

LABELS = torch.tensor([0, 3])


def trained() -> Target:
    """Return a target that tells bright quadrants apart: what a few steps can learn."""
    random = torch.Generator().manual_seed(0)
    model = build("lenet5", 4, seed=0).train()
    adam = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(60):
        labels = torch.randint(4, (32,), generator=random)
        images = 0.3 * torch.rand(32, 1, 32, 32, generator=random)
        for image, label in zip(images, labels.tolist(), strict=True):
            row, column = divmod(label, 2)
            image[:, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] += 0.5
        adam.zero_grad()
        F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        adam.step()
    return Target(for_inference(model), "trained", 1, CPU)


def test_fp32_is_the_attack_itself() -> None:
    assert torch.equal(inverted("gmi", [0, 3]).images, inverted("gmi", [0, 3], {"precision": "fp32"}).images)
    assert inverted("gmi", [0, 3]).cost.precision == "fp32"


def test_only_steps_with_a_gradient_are_lowered() -> None:
    network = target().model
    lowered = in_bf16(network, "cpu")
    images = torch.rand(4, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(images), lowered(images))
        assert torch.equal(network.features(images).logits, lowered.features(images).logits)
    close = lowered.features(images.requires_grad_(True)).logits
    assert close.dtype == torch.float32
    assert not torch.equal(network(images), close)
    torch.testing.assert_close(network(images), close, atol=0.05, rtol=0.05)


def test_a_trained_target_passes_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    victim = trained()
    prior = attack("gmi").prior(None, public(), 0, CPU)
    assert prior.critic is not None
    agreed = agreement("bf16", victim, prior, LABELS, "max_margin")
    assert 0.5 < agreed <= 1
    monkeypatch.setattr(precision, "AGREE", agreed - 1e-3)
    assert in_precision("bf16", victim, prior, LABELS, "max_margin")[0].precision == "bf16"
    monkeypatch.setattr(precision, "_native", lambda device: ["bf16"])
    for name in ("gmi", "vmi", "ifgmi"):
        made = inverted(name, [0, 3], {"precision": "auto"}, of=victim)
        assert made.images.isfinite().all()
        assert made.cost.precision in ("bf16", "fp32")


def test_what_bends_gradients_is_refused_and_auto_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert AGREE == 0.99
    monkeypatch.setattr(precision, "agreement", lambda *_: 0.7)
    monkeypatch.setattr(precision, "_native", lambda device: ["bf16"])
    with pytest.raises(ConfigError, match=r"cosine to fp32 0\.700"):
        inverted("kedmi", [0, 3], {"precision": "bf16"})
    plain, auto = inverted("kedmi", [0, 3]), inverted("kedmi", [0, 3], {"precision": "auto"})
    assert torch.equal(plain.images, auto.images)
    assert auto.cost.precision == "fp32"
    with pytest.raises(ConfigError, match="tf32"):
        inverted("kedmi", [0, 3], {"precision": "tf32"})
