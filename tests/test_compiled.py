"""Compiled steps: the same reconstructions, refused or left out where the gradients change."""

import pytest
import torch
from attack_bench import CPU, attack, inverted, public, target

from attacker import acceleration
from attacker.acceleration import Steps, in_compiled
from fedinverse.errors import ConfigError

LABELS = torch.tensor([0, 3])


@pytest.fixture(autouse=True)
def _traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace as for inductor, without its minute of C++ compilation."""
    monkeypatch.setattr(acceleration, "BACKEND", "aot_eager")


@pytest.mark.parametrize("name", ["gmi", "kedmi"])
def test_compiled_steps_reconstruct_the_same(name: str) -> None:
    plain, fast = inverted(name, [0, 3]), inverted(name, [0, 3], {"compile": "on"})
    torch.testing.assert_close(plain.images, fast.images, atol=1e-3, rtol=0)
    assert fast.cost.precision == "fp32, compiled"
    assert plain.cost.precision == "fp32"


def test_auto_leaves_the_cpu_alone() -> None:
    plain = Steps(target(), attack("gmi").prior(None, public(), 0, CPU))
    assert in_compiled("auto", plain, LABELS, "ce") is plain


def test_changed_gradients_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Steps(target(), attack("gmi").prior(None, public(), 0, CPU))
    monkeypatch.setattr(acceleration, "COMPILED_AGREE", 1.1)
    with pytest.raises(ConfigError, match="compile"):
        in_compiled("on", plain, LABELS, "ce")
