"""Everything that may run on an accelerator, run on one that is only pretended (``pretended_device``).

Where no GPU is at hand this is what can be tested of it: tensors on the wrong device, generators of another device,
device indices into CPU tensors, and reads that make the CPU wait inside a loop. Speed and rounding are not.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attack_bench import SWITCHES, TINY, attack
from pretended_device import DEVICE, Guard, pretended
from torch import Tensor

from attacker.attacks.case import Case
from attacker.losses.objective import Loss
from attacker.reconstructions import Reconstructions
from attacker.target import PublicSet, Target
from auditor.controls import surest_known
from auditor.evaluators.embedding import describe
from auditor.evaluators.evaluator import Judge, Vault, fit
from auditor.evaluators.open_set import OpenEvaluators
from auditor.evaluators.plain import plain_classifier
from auditor.settings import Evaluator
from clients.defences import defence_names, make_defence
from clients.settings import Training
from clients.training import train
from fedinverse.data.source import unit
from fedinverse.models import build, for_inference, model_names, spec_of
from fedinverse.seeds import generator
from fedinverse.shard import Shard

LABELS = torch.arange(3).repeat_interleave(4)
# Where the CPU may wait for the device, and how often in these few steps: never once per step, but for the last.
ALLOWED = {
    ("attacker/acceleration.py", "agreement"): 2,  # the check of another arithmetic, once per inversion
    ("attacker/attacks/bound.py", "stalled"): 2,  # VMI's patience, once per window of 50 steps
    ("clients/training.py", "_train"): 6,  # whether training diverged, and its sums: once per round
    # The median rule of a kernel's width: once per inversion, but with sigma = 0, as published, for every batch.
    ("fedinverse/dependence/kernels.py", "bandwidth"): 36,
}
HSIC: dict[str, Any] = {"diversity": {"measure": "hsic", "weight": -1.0}}
PAPER: list[dict[str, Any]] = [
    {"diversity": {"measure": measure, "weight": 1.0, "sigma": sigma, "kernel": kernel}}
    for measure, sigma, kernel in (
        ("hsic_paper", 5.0, "gaussian"),
        ("hsic_paper", 0.0, "gaussian"),
        ("coco_paper", 5.0, "linear"),
        ("coco_paper", 5.0, "imq"),
    )
]
SHALLOW: dict[str, Any] = {"iterations": 2}
FLOW: dict[str, Any] = {"posterior": "flow", "flow_steps": 1, "flow_activation": "elu"}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    *((name, "mcnn", {}) for name in TINY),
    *((name, "vgg16", {"augment": 2, "captures": 2}) for name in ("gmi", "kedmi", "plgmi", "deepinversion")),
    *(
        (name, "mcnn", table | SHALLOW)
        for name, table in SWITCHES
        if name in ("gmi", "vmi") and "flow" not in table.values()
    ),
    ("vmi", "mcnn", FLOW),
    ("kedmi", "mcnn", {"draws": 3, "prior": TINY["kedmi"]["prior"] | {"minibatch_discrimination": True}}),
    ("gmi", "vgg16", {"initial_selection": 6}),
    ("gmi", "mcnn", {"precision": "bf16"}),
    ("vmi", "mcnn", {"patience": 1, "iterations": 60}),
    ("gmi", "mcnn_vib", {"noise_draws": 2, "captures": 2}),
    ("deepinversion", "lenet5", {}),
    ("gmi", "mcnn", HSIC),
    ("ifgmi", "mcnn", HSIC),
    ("vmi", "mcnn", HSIC | {"draws": 4}),
    *(("gmi", "mcnn", table) for table in PAPER),
    ("kedmi", "mcnn", PAPER[0]),
]


def inverted(name: str, model: str, table: dict[str, Any]) -> Reconstructions:
    """Train the prior, invert and sample as the worker would, on the device."""
    networks = [build(model, 6, 0.05, seed=seed).eval().requires_grad_(False) for seed in (0, 1)]
    shape = (30, *networks[0].input_shape)
    images = torch.randint(256, shape, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    now, before = (
        Target(for_inference(each, DEVICE), "0" * 64, 1, DEVICE, captured=each.to(DEVICE)) for each in networks
    )
    victim = Target(now.model, now.sha256, 1, DEVICE, (before,) if "captures" in table else (), now.captured)
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
    with pretended() as guard:
        inverted(name, model, table)
    check(guard)


@pytest.mark.parametrize(
    "model", [name for name in model_names() if name not in ("mcnn", "vgg16", "mcnn_vib", "ir152", "face_evolve")]
)
def test_networks_as_targets(model: str) -> None:
    with pretended() as guard:
        inverted("gmi", model, {"iterations": 1})
    check(guard)


def shard_for(model: str) -> Shard:
    shape = spec_of(model).input_shape
    return Shard(torch.randint(256, (12, *shape), dtype=torch.uint8), torch.arange(12) % 3)


@pytest.mark.parametrize("name", defence_names())
def test_local_training(name: str) -> None:
    """Every defence; ``none`` is also how the model of the attacker's own shard (B3) is trained."""
    model = {"mid": "mcnn_vib", "dp_sgd": "mcnn_gn"}.get(name, "mcnn")
    with pretended() as guard:
        network = build(model, 3, 0.1, seed=0).to(DEVICE)
        defence = make_defence(name, {}, "test")
        train(network, shard_for(model), Training(batch_size=4), defence, generator(0, "client"), DEVICE)
        assert {weight.device for weight in network.state_dict().values()} == {DEVICE}
    check(guard)


def test_judges_and_what_they_say() -> None:
    """E1's training and reading, E2's description: what scores A, every B arm and CEIL."""
    with pretended() as guard:
        network = build("scnn", 3, 0.1, seed=0).to(DEVICE)
        fit(network, Vault(shard_for("scnn")), Evaluator(epochs=1, batch_size=4), generator(0, "e1"), DEVICE)
        logits, features = Judge(for_inference(network, DEVICE), DEVICE).read(torch.rand(5, 1, 32, 32))
        assert logits.device.type == features.device.type == "cpu"
        for channels in (1, 3):
            assert describe(torch.rand(5, channels, 64, 64).to(DEVICE)).device == DEVICE
    assert not guard.syncs


def test_the_known_images_a_target_is_surest_of() -> None:
    """Controls B4 and B4W, and the answers of an evaluator that may say "none of these"."""
    known, labels = shard_for("mcnn").images, torch.arange(3).repeat_interleave(2)
    with pretended() as guard:
        target = for_inference(build("mcnn", 3, 0.1, seed=0), DEVICE)
        surest = surest_known(target, known, labels, DEVICE)
        both = (
            for_inference(build("lenet5", 4, 0.1, seed=0), DEVICE),
            for_inference(plain_classifier((1, 32, 32), 4, 0), DEVICE),
        )
        answers = OpenEvaluators(both, DEVICE).read(torch.rand(5, 1, 32, 32))
    assert answers.shape == (5, 2)
    assert {len(rows) for rows in surest.rows.values()} == {2}
    assert {each.device.type for each in (answers, *surest.sure.values())} == {"cpu"}
    assert not guard.syncs


def test_the_servers_evaluation() -> None:
    held_out = shard_for("mcnn")
    with pretended() as guard:
        ready = for_inference(build("mcnn", 3, 0.1, seed=0), DEVICE)
        logits = torch.cat([ready(unit(part, DEVICE)) for part in held_out.images.split(5)]).cpu()
        assert logits.shape == (12, 3)
    assert not guard.syncs


def _cpu_labels(self: Loss, images: Tensor, labels: Tensor, plain: Any) -> Any:
    return plain(self, images, labels.cpu())


def _cpu_constant(self: Loss, images: Tensor, labels: Tensor, plain: Any) -> Any:
    return plain(self, images * torch.linspace(0, 1, images.shape[-1]), labels)


def _read_every_step(self: Loss, images: Tensor, labels: Tensor, plain: Any) -> Any:
    loss, features = plain(self, images, labels)
    return loss * float(loss.sum()), features


def _cpu_indexed(self: Loss, images: Tensor, labels: Tensor, plain: Any) -> Any:
    torch.arange(10)[labels]
    return plain(self, images, labels)


def _as_array(self: Loss, images: Tensor, labels: Tensor, plain: Any) -> Any:
    labels.numpy()
    return plain(self, images, labels)


def _other_generator(self: Loss, images: Tensor, labels: Tensor, plain: Any) -> Any:
    noise = torch.randn(images.shape, generator=torch.Generator(), device=images.device)
    return plain(self, images + noise, labels)


@pytest.mark.parametrize(
    "fault", [_cpu_labels, _cpu_constant, _read_every_step, _cpu_indexed, _as_array, _other_generator]
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
