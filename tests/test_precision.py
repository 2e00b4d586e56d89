"""Lowered precision: used where gradients agree with fp32, refused or left out where they do not."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import pytest
import torch
import torch.nn.functional as F
from attack_bench import CPU, attack, inverted, public, target

from attacker import acceleration
from attacker.acceleration import AGREE, Steps, agreement_of, gradients, in_bf16, in_compiled, in_precision, with_steps
from attacker.attacks import attack as attacks
from attacker.attacks.case import Case
from attacker.priors import prior
from attacker.priors.dcgan import Critic
from attacker.priors.prior import Training
from attacker.priors.wgan_gp import WganGp
from attacker.reconstructions import scored
from attacker.target import Target
from fedinverse.errors import ConfigError
from fedinverse.models import Classifier, Features, build, for_inference
from fedinverse.switches import deterministic, tf32

M = TypeVar("M", bound=torch.nn.Module)
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
    exact = Steps(victim, attack("gmi").prior(None, public(), 0, CPU))
    agreed = agreement_of("bf16", exact, LABELS, "max_margin")
    assert 0.5 < agreed <= 1
    monkeypatch.setattr(acceleration, "AGREE", agreed - 1e-3)
    with in_precision("bf16", exact, LABELS, "max_margin") as steps:
        assert steps.arithmetic == "bf16"
    monkeypatch.setattr(acceleration, "_native", lambda device: ["bf16"])
    for name in ("gmi", "vmi", "ifgmi"):
        result = inverted(name, [0, 3], {"precision": "auto"}, of=victim)
        assert result.images.isfinite().all()
        assert result.cost.precision in ("bf16", "fp32")


def test_what_bends_gradients_is_refused_and_auto_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert AGREE == 0.99
    monkeypatch.setattr(acceleration, "agreement_of", lambda *_: 0.7)
    monkeypatch.setattr(acceleration, "_native", lambda device: ["bf16"])
    with pytest.raises(ConfigError, match=r"cosine to fp32 0\.700"):
        inverted("kedmi", [0, 3], {"precision": "bf16"})
    plain, auto = inverted("kedmi", [0, 3]), inverted("kedmi", [0, 3], {"precision": "auto"})
    assert torch.equal(plain.images, auto.images)
    assert auto.cost.precision == "fp32"
    with pytest.raises(ConfigError, match="tf32"):
        inverted("kedmi", [0, 3], {"precision": "tf32"})


@pytest.mark.parametrize("broken", ["model", "critic"])
@pytest.mark.parametrize("kind", ["bf16", "compiled"])
def test_a_network_that_is_perturbed_is_refused(kind: str, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is checked are the gradients themselves: another way to compute them that flips them does not pass."""

    def flipped(network: M) -> M:
        twisted = with_steps(network, lambda call: lambda *values: _negative(call(*values)))
        wanted = Classifier if broken == "model" else Critic
        return twisted if isinstance(network, wanted) else network

    monkeypatch.setattr(acceleration, "in_bf16", lambda network, device: flipped(network))
    monkeypatch.setattr(acceleration, "with_steps", lambda network, change: flipped(network))
    exact = Steps(target(), attack("gmi").prior(None, public(), 0, CPU))
    if kind == "bf16":
        assert agreement_of("bf16", exact, LABELS, "logit") == pytest.approx(-1)
        with pytest.raises(ConfigError, match="bends"), in_precision("bf16", exact, LABELS, "max_margin"):
            pass
    else:
        refused = pytest.raises(ConfigError, match="changes this target's gradients")
        with refused, in_compiled("on", exact, LABELS, "max_margin"):
            pass


def _negative(value: Any) -> Any:
    return Features(value.taps, value.penultimate, -value.logits) if isinstance(value, Features) else -value


def test_the_reference_of_tf32_is_computed_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for TF32 that flips gradients while it is switched on must not be its own reference."""
    exact, sign = Steps(target(), attack("gmi").prior(None, public(), 0, CPU)), [1.0]

    @contextmanager
    def flipping(device: torch.device, *, on: bool) -> Iterator[None]:
        before, sign[0] = sign[0], -1.0 if on else 1.0
        yield
        sign[0] = before

    def signed(*arguments: Any) -> list[torch.Tensor]:
        return [sign[0] * slope for slope in gradients(*arguments)]

    monkeypatch.setattr(acceleration, "tf32", flipping)
    monkeypatch.setattr(acceleration, "gradients", signed)
    assert agreement_of("tf32", exact, LABELS, "ce") == pytest.approx(-1)


def switches() -> list[Any]:
    backends: Any = torch.backends
    newer = [switch.fp32_precision for switch in (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)]
    return [*newer, backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32]


def test_tf32_is_given_back_and_can_be_read_meanwhile() -> None:
    cuda, before = torch.device("cuda"), switches()
    with tf32(cuda, on=False):
        assert switches()[-2:] == [False, False]
        with suppress(ZeroDivisionError), tf32(cuda, on=True):
            assert switches()[-2:] == [True, True]
            raise ZeroDivisionError
        assert switches()[-2:] == [False, False]
    assert switches() == before


def test_a_prior_is_trained_and_scores_are_made_without_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    exact: list[bool] = []

    @contextmanager
    def noted(device: torch.device, *, on: bool = False) -> Iterator[None]:
        exact.append(not on)
        yield
        exact.pop()

    def train(self: WganGp, nets: torch.nn.ModuleDict, data: Training) -> None:
        assert exact[-1]

    def judged(*arguments: Any) -> Any:
        assert exact[-1]
        return scored(*arguments)

    monkeypatch.setattr(prior, "tf32", noted)
    monkeypatch.setattr(attacks, "exact_fp32", noted)
    monkeypatch.setattr(WganGp, "train", train)
    monkeypatch.setattr(attacks, "scored", judged)
    gmi = attack("gmi", {"prior": {"width": 0.1, "steps": 977}})  # in no cache
    assert inverted("gmi", [0], {"prior": {"width": 0.1, "steps": 977}}).images.shape == (1, 1, 32, 32)
    assert gmi.prior(None, public(), 0, CPU).name == "wgan-gp"
    assert not exact


def test_deterministic_uses_deterministic_kernels_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[bool, str | None]] = []
    plain = Case.loss

    def noted(self: Case, images: torch.Tensor, z: torch.Tensor, weight: float = 1.0) -> torch.Tensor:
        asked.append((torch.are_deterministic_algorithms_enabled(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")))
        return plain(self, images, z, weight)

    monkeypatch.setattr(Case, "loss", noted)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    for wanted in (False, True):
        asked.clear()
        result = inverted("gmi", [0, 3], {"deterministic": wanted, "augment": 2})
        assert asked == [(True, ":4096:8") if wanted else (False, None)] * 3
        assert not torch.are_deterministic_algorithms_enabled()
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
        assert result.images.isfinite().all()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with suppress(ZeroDivisionError), deterministic(True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"  # the user's stays
        raise ZeroDivisionError
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(ConfigError, match="exclude each other on CUDA"):
        attacks.check_deterministic(attack("plgmi", {"deterministic": True}).settings, torch.device("cuda"))
    with pytest.raises(ConfigError, match="trains its prior on rotated views"):
        attack("plgmi", {"deterministic": True, "augment": 0}).prior(target(), public(), 0, torch.device("cuda"))
