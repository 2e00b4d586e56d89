"""Everything that may run on an accelerator, run on one that is only pretended (``pretended_device``).

Where no GPU is at hand this is what can be tested of it: tensors on the wrong device, generators of another device,
device indices into CPU tensors, and reads that make the CPU wait inside a loop. Speed and rounding are not.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from inspect import isabstract
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
import torch.nn.functional as F
from attack_bench import TINY, attack
from pretended_device import DEVICE, REAL, Guard, pretended
from pydantic import BaseModel
from torch import Tensor

from attacker.attacks.attack import ATTACKS
from attacker.attacks.case import Case
from attacker.losses.identity import IDENTITY_LOSSES
from attacker.losses.objective import Loss
from attacker.priors.external import Network, add_external
from attacker.priors.prior import PriorTrainer
from attacker.reconstructions import Reconstructions
from attacker.target import PublicSet, Target
from fedinverse.errors import ConfigError
from fedinverse.models import build, for_inference, model_names
from fedinverse.storage import save_weights, to_weights

LABELS = torch.arange(3).repeat_interleave(4)
# Where the CPU may wait for the device, and how often in these few steps: never once per step, but for the last.
ALLOWED = {
    ("attacker/reconstructions.py", "scored"): 6,  # what an inversion returns, copied once
    ("attacker/acceleration.py", "agreement"): 2,  # the check of another arithmetic, once per inversion
    ("attacker/attacks/bound.py", "stalled"): 2,  # VMI's patience, once per window of 50 steps
    # The median rule of a kernel's width: once per inversion, but with sigma = 0, as published, for every batch.
    ("fedinverse/dependence/kernels.py", "bandwidth"): 36,
}
STUDENT: dict[str, Any] = {"students": 1, "distillation": {"width": 0.1, "steps": 2}}


def dependent(measure: str, **settings: Any) -> dict[str, Any]:
    return {"diversity": {"measure": measure, "weight": -1.0} | settings}


# The switches that all attacks have, several at once.
SHARED: list[tuple[str, dict[str, Any]]] = [
    ("mcnn", {"identity_loss": "ce", "augment": 0, "precision": "fp32"}),
    (
        "mcnn",
        {"identity_loss": "logit", "augment": 2, "captures": 2, "precision": "bf16"}
        | STUDENT
        | dependent("coco_paper", kernel="linear"),
    ),
    ("mcnn_vib", {"identity_loss": "poincare", "noise_draws": 2, "precision": "tf32"} | dependent("hsic")),
    ("lenet5", {"identity_loss": "max_margin", "precision": "auto"} | dependent("hsic_paper")),
    ("lenet5", {"augment": 0, "deterministic": True} | dependent("hsic_paper", sigma=0.0, kernel="imq")),
]
SHALLOW: dict[str, Any] = {"iterations": 2}
# On CUDA a training's step is recorded at its fourth call and replayed from then on.
LOWERED = {"precision": "tf32", "steps": 6}
SEVERAL = {"draws": 4}  # samples per class, which the unbiased HSIC of attacks that fit a distribution needs
CASES: list[tuple[str, str, dict[str, Any]]] = [
    *(
        (name, model, table | (SEVERAL if name in ("kedmi", "vmi") and "noise_draws" in table else {}))
        for model, table in SHARED
        for name in TINY
    ),
    *(("vmi", "lenet5", {"posterior": family} | SHALLOW) for family in ("full", "gmm")),
    ("vmi", "lenet5", {"posterior": "flow", "flow_levels": 1, "flow_steps": 1} | SHALLOW),
    ("vmi", "lenet5", {"posterior": "flow", "flow_levels": 1, "flow_steps": 1, "flow_activation": "elu"} | SHALLOW),
    ("vmi", "lenet5", {"optimiser": "sgd", "lr": 1e-4, "patience": 1, "iterations": 51}),
    ("kedmi", "lenet5", {"rho": 1.0, "prior": TINY["kedmi"]["prior"] | {"minibatch_discrimination": True}}),
    ("gmi", "lenet5", {"initial_selection": 6, "lr": 0.1}),
    *(
        (name, "lenet5", {"augment": 0, "prior": TINY[name]["prior"] | LOWERED})
        for name in TINY
        if "prior" in TINY[name]
    ),
    ("ifgmi", "lenet5", {"joint": False, "initial_selection": 6, "lr": 0.1}),
]
# Switches that no pretended device can try, and why.
ELSEWHERE = {
    "compile": "a compiler makes nothing of tensors that hold no numbers; benchmarks/cuda_parity.py is for a real one",
    "generator": "test_a_generator_of_another",
    "distillation.models": "names networks, which all are targets below",
    "distillation.seed": "no switch",
    "prior.shipped": "reads a file, whatever the device",
}


def inverted(name: str, model: str, table: dict[str, Any]) -> Reconstructions:
    """Train the prior, invert and sample as the worker would, on the device."""
    networks = [build(model, 6, 0.05, seed=seed).requires_grad_(False) for seed in range(table.get("captures", 1))]
    shape = (30, *networks[0].input_shape)
    images = torch.randint(256, shape, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    now, *before = (
        Target(for_inference(each, DEVICE), "0" * 64, 1, DEVICE, captured=each.eval().to(DEVICE)) for each in networks
    )
    victim = replace(now, earlier=tuple(before))
    tested, public = attack(name, table), PublicSet(images, "public")
    prior = tested.prior(victim, public, 0, DEVICE)
    result = tested.invert(victim, prior, public, LABELS, torch.Generator().manual_seed(0))
    alone = prior.sample(len(LABELS), torch.Generator().manual_seed(0), DEVICE, LABELS)
    assert alone.device == DEVICE
    for value in (result.images, result.labels, result.latent, result.identity_loss, result.confidence, result.failed):
        assert value.device.type == "cpu"
    assert result.images.shape == (len(LABELS), *networks[0].input_shape)
    return result


def check(guard: Guard) -> None:
    """Refuse reads of the device that are not allowed, or more than are."""
    assert {place: count for place, count in guard.syncs.items() if count > ALLOWED.get(place, 0)} == {}


@pytest.mark.parametrize(("name", "model", "table"), CASES)
def test_attacks(name: str, model: str, table: dict[str, Any]) -> None:
    refused = REAL and name == "plgmi" and "deterministic" in table  # its prior learns from rotated views
    with pretended() as guard, pytest.raises(ConfigError, match="rotated") if refused else nullcontext():
        inverted(name, model, table)
    check(guard)


def of_ours(registered: Iterable[tuple[str, Any]]) -> list[str]:
    """Return the names of what stands in this repository, not in another test's plug-in."""
    return [name for name, entry in registered if not entry.__module__.startswith(("test", "signs"))]


ATTACK_NAMES = of_ours((name, ATTACKS.get(name)) for name in ATTACKS.registered())
NETWORKS = [name for name in model_names() if ":" not in name]


@pytest.mark.parametrize("model", sorted(set(NETWORKS) - {model for _, model, _ in CASES}))
def test_networks_as_targets(model: str) -> None:
    """Every network; attacks take turns."""
    turn = NETWORKS.index(model) % len(ATTACK_NAMES)
    with pretended() as guard:
        inverted(ATTACK_NAMES[turn], model, {"iterations": 1, "augment": 0})
    check(guard)


def settings_of(section: type[BaseModel], above: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield name, type and default of every setting, those of its sections too."""
    for name, entry in section.model_fields.items():
        kind = entry.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from settings_of(kind, f"{above}{name}.")
        else:
            yield above + name, kind, entry.default


def values_of(name: str, kind: Any, default: Any) -> set[Any] | None:
    """Return the values that a switch takes; None: it is a quantity, of which any value does."""
    if name == "identity_loss":
        return {"ce", *of_ours((each, IDENTITY_LOSSES.get(each).loss) for each in IDENTITY_LOSSES.registered())}
    if get_origin(kind) is Literal:
        return set(get_args(kind))
    if kind is bool:
        return {True, False}
    off = (kind is int and default in (0, 1)) or (kind is float and default == 0)
    return {"off", "on"} if off else None


def taken(table: dict[str, Any], name: str, default: Any) -> Any:
    for part in name.split("."):
        if part not in table:
            return default
        table = table[part]
    return table


@pytest.mark.parametrize("name", ATTACK_NAMES)
def test_every_switch_of_every_attack_is_tried(name: str) -> None:
    """Fails if an attack, a prior or a setting is added that no case above tries on the device."""
    tables = [TINY[attacked] | table for attacked, _, table in CASES if attacked == name]
    settings = ATTACKS.get(name).Settings
    missing = {}
    for setting, kind, default in settings_of(settings):
        values = values_of(setting, kind, default)
        if values is None or setting in ELSEWHERE:
            continue
        tried = {taken(table, setting, default) for table in tables}
        if values == {"off", "on"}:
            tried = {"off" if value == default else "on" for value in tried}
        if values - tried:
            missing[setting] = values - tried
    assert missing == {}


def test_every_prior_is_tried() -> None:
    recipes = {ATTACKS.get(name).recipe for name in ATTACK_NAMES}
    trainers = {each for each in _below(PriorTrainer) if each.__module__.startswith("attacker.")}
    assert {each for each in trainers if not isabstract(each)} == recipes


def _below(kind: type[Any]) -> set[type[Any]]:
    return {each for child in kind.__subclasses__() for each in (child, *_below(child))}


def test_a_generator_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path))
    network = Network("dcgan", (1, 32, 32), 0.1)
    save_weights(tmp_path / "both.safetensors", to_weights(network.build(critic=True)), {})
    key = add_external(network, tmp_path / "both.safetensors")
    with pretended() as guard:
        inverted("gmi", "mcnn", {"generator": key})
    check(guard)


def _cpu_labels(self: Loss, images: Tensor, labels: Tensor, plain: Any) -> Any:
    return plain(self, images, labels.cpu())


def _cpu_constant(self: Loss, images: Tensor, labels: Tensor, plain: Any) -> Any:
    return plain(self, images * torch.linspace(0, 1, images.shape[-1]), labels)


def _read_every_step(self: Loss, images: Tensor, labels: Tensor, plain: Any) -> Any:
    loss, features = plain(self, images, labels)
    return loss * float(loss.sum()), features


def _copied_every_step(self: Loss, images: Tensor, labels: Tensor, plain: Any) -> Any:
    images.detach().cpu().mean()
    return plain(self, images, labels)


def _cpu_indexed(self: Loss, images: Tensor, labels: Tensor, plain: Any) -> Any:
    torch.arange(10)[labels]
    return plain(self, images, labels)


def _as_array(self: Loss, images: Tensor, labels: Tensor, plain: Any) -> Any:
    labels.numpy()
    return plain(self, images, labels)


def _other_generator(self: Loss, images: Tensor, labels: Tensor, plain: Any) -> Any:
    noise = torch.randn(images.shape, generator=torch.Generator(), device=images.device)
    return plain(self, images + noise, labels)


@pytest.mark.skipif(bool(REAL), reason="a real accelerator raises at some of them and waits at the others")
@pytest.mark.parametrize(
    "fault",
    [_cpu_labels, _cpu_constant, _read_every_step, _copied_every_step, _cpu_indexed, _as_array, _other_generator],
)
def test_planted_faults_are_caught(fault: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Loss.__call__
    monkeypatch.setattr(Loss, "__call__", lambda self, images, labels: fault(self, images, labels, plain))

    def run() -> None:
        with pretended() as guard:
            inverted("gmi", "mcnn", {})
        check(guard)

    with pytest.raises((RuntimeError, TypeError, AssertionError)):
        run()


def test_a_fault_after_the_loop_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Case, "start", lambda self, candidates=0: torch.zeros(len(self.labels), self.prior.latent))
    with pretended(), pytest.raises((RuntimeError, TypeError), match=r"indices|device"):
        inverted("gmi", "mcnn", {"iterations": 0})


def test_what_the_cpu_does_alone_is_real() -> None:
    with pretended() as guard:
        numbers = torch.arange(4) * 2
        assert numbers.tolist() == [0, 2, 4, 6]
        there = numbers.to(DEVICE)
        assert there.device == DEVICE
        assert there.cpu().shape == (4,)
        F.relu(there.float()).sum().item()  # not in the project's own files: not counted against it
    assert not guard.syncs
