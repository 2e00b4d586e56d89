"""Compiled steps: the same reconstructions, refused or left out where the gradients change."""

from typing import Any

import pytest
import torch
import torch._dynamo.config
from attack_bench import CPU, attack, inverted, public, target

from attacker import acceleration
from attacker.acceleration import Steps, in_bf16, in_compiled
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
    with in_compiled("auto", plain, LABELS, "ce") as steps:
        assert steps is plain


def test_changed_gradients_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Steps(target(), attack("gmi").prior(None, public(), 0, CPU))
    monkeypatch.setattr(acceleration, "COMPILED_AGREE", 1.1)
    with pytest.raises(ConfigError, match="compile"), in_compiled("on", plain, LABELS, "ce"):
        raise AssertionError("it was not refused")


def test_every_network_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if networks in bf16, which are one function to the compiler, come to PyTorch's limit: eight, here one."""
    programs = []

    def backend(program: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        programs.append(program)
        return program.forward

    monkeypatch.setattr(acceleration, "BACKEND", backend)
    torch.compiler.reset()
    plain = Steps(target(), attack("gmi").prior(None, public(), 0, CPU))
    lowered = plain.changed(lambda network: in_bf16(network, "cpu"), "bf16")
    with torch._dynamo.config.patch(recompile_limit=1):
        with in_compiled("on", lowered, LABELS, "ce") as steps:
            assert steps.arithmetic == "bf16, compiled"
        assert torch._dynamo.config.recompile_limit == 1
    assert len(programs) == 3  # target, generator, critic
