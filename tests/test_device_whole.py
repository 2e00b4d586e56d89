"""A whole run on an accelerator that is only pretended (``pretended_device``), and what a whole run does not try.

Clients train and evaluate on it, the server evaluates on it, every B arm, E1, E2 and the open evaluators compute on it,
and so do the questions about updates, membership and an active participant.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from conftest import TINY
from pretended_device import DEVICE, REAL, Guard, pretended
from torch import Tensor

from attacker.membership.references import Holdings, References
from attacker.membership.scores import SCORES
from attacker.settings import Updates
from attacker.updates.update_inversion import LocalTraining, reconstruct
from auditor.evaluators.embedding import describe
from auditor.evaluators.evaluator import Judge
from auditor.membership import Candidates
from auditor.questions import SECTIONS
from auditor.table import read_scores
from clients.defences import defence_names, make_defence
from clients.participant import ACTIVE, make_participant
from clients.settings import Training
from clients.training import train
from fedinverse.models import build, spec_of
from fedinverse.run import prepare
from fedinverse.seeds import generator
from fedinverse.shard import Shard, save_shard
from fedinverse.storage import save_weights, to_weights
from pipeline.engines import Engine
from pipeline.experiment import resolved, worlds_of
from pipeline.stages.audit import audit
from pipeline.stages.controls import controls
from pipeline.stages.federate import federate
from pipeline.stages.invert import planned
from pipeline.stages.membership_scores import BOUNDS, Membership, Seat, measured
from pipeline.stages.updates import updates

ON: dict[str, Any] = {"device": str(DEVICE)}
GMI = TINY["attacks"]["gmi"]
WHOLE: dict[str, Any] = {
    "model": {"name": "lenet5"},
    "federation": {"rounds": 2, "fraction_evaluate": 0.5} | ON,
    "training": {"batch_size": 64},
    "attacker": {"rounds": "last", "restarts": 1} | ON,
    "attacks": {"gmi": {**GMI, "iterations": 2, "prior": {**GMI["prior"], "steps": 1}}},
    "audit": {"without_victim": True, "evaluator": {"batch_size": 128}} | ON,
    "updates": {"images": 2, "iterations": 3} | ON,
}
# Where the CPU may wait for the device, and at most how often in the run above: after a stage's work, never in a step.
WAITS = {
    ("fedinverse/storage.py", "_as_numpy"): 500,  # weights that are sent or kept, an array at a time
    ("server/utility.py", "utility"): 6,  # once an evaluation
    ("clients/training.py", "_train"): 20,  # twice a training: its sums
    ("clients/training.py", "_all_finite"): 10,  # once a training: whether it diverged
    ("clients/training.py", "evaluate"): 48,
    ("attacker/reconstructions.py", "scored"): 30,  # six arrays of an inversion
    ("attacker/reconstructions.py", "unoptimised"): 10,
    ("attacker/inversion.py", "invert"): 5,
    ("attacker/priors/prior.py", "keep_samples"): 2,
    ("attacker/updates/update_inversion.py", "reconstruct"): 4,
    # What judges return is on the CPU: once for 256 images, or 2,048.
    ("auditor/evaluators/embedding.py", "of_pixels"): 3,
    ("auditor/evaluators/open_set.py", "read"): 22,
    ("auditor/evaluators/evaluator.py", "read"): 52,
    ("auditor/controls.py", "surest_known"): 2,
    ("auditor/bench.py", "inspect"): 10,
}


def check(guard: Guard, waits: dict[tuple[str, str], int]) -> None:
    """Refuse reads of the device that are not allowed, or more than are."""
    assert {place: count for place, count in guard.syncs.items() if count > waits.get(place, 0)} == {}


def test_a_whole_run(
    tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Fails too if a client failed, which the federation would go on without."""
    monkeypatch.setattr(Engine, "device", str(DEVICE))
    rounded, plain = [], Judge.read

    def read(self: Judge, images: Tensor) -> tuple[Tensor, Tensor]:
        rounded.append(torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
        return plain(self, images)

    monkeypatch.setattr(Judge, "read", read)
    before = torch.backends.cudnn.allow_tf32
    experiment = tiny(**WHOLE)
    run = prepare(tmp_path / "run", resolved(experiment))
    monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path / "cache"))  # evaluators of random numbers are for nobody else
    with pretended() as guard:
        federate(run, worlds_of(experiment), Engine(kind="local"))
        assert [record.message for record in caplog.records if record.name == "fedinverse.engine"] == []
        planned(run, controls(run)).work()
        audit(run)
        updates(run)
    arms = set(read_scores(run.files.auditor.scores)["arm"])
    assert arms == {"A", "B0", "B1", "B2", "B3", "B4", "B4W", "B5", "T1", "CEIL"}
    check(guard, WAITS)
    assert REAL or set(guard.syncs) == set(WAITS)  # each of these computed on the device
    assert rounded
    assert not any(rounded)  # judged in exact fp32
    assert torch.backends.cudnn.allow_tf32 == before


def shard_for(model: str, count: int = 12) -> Shard:
    shape = spec_of(model).input_shape
    return Shard(torch.randint(256, (count, *shape), dtype=torch.uint8), torch.arange(count) % 3)


DEFENDED: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in defence_names()),
    ("bido_hsic", {"sigma": "median", "label_kernel": "gaussian"}),
    ("bido_coco", {"sigma": "median_paper", "numerics": "published", "norm": "spectral"}),
    ("mid", {"warmup_steps": 2}),
]


@pytest.mark.parametrize(("name", "table"), DEFENDED)
def test_local_training(name: str, table: dict[str, Any]) -> None:
    """Every defence; ``none`` is also how the model of the attacker's own shard (B3) is trained."""
    model = {"mid": "mcnn_vib", "dp_sgd": "mcnn_gn"}.get(name, "mcnn")
    training = Training(batch_size=6, optimizer="adam" if table else "sgd", flips=bool(table))
    with pretended() as guard:
        network = build(model, 3, 0.1, seed=0).to(DEVICE)
        defence = make_defence(name, table, "test")
        train(network, shard_for(model), training, defence, generator(0, "client"), DEVICE, 0.1 if table else 0.0)
        assert {weight.device for weight in network.state_dict().values()} == {DEVICE}
    rule = {("fedinverse/dependence/kernels.py", "bandwidth"): 99} if "sigma" in table else {}
    check(guard, {("clients/training.py", "_train"): 4, ("clients/training.py", "_all_finite"): 2} | rule)


@pytest.mark.parametrize("kind", sorted(ACTIVE))
def test_active_participants(kind: str, tmp_path: Path) -> None:
    save_shard(tmp_path / "candidates", shard_for("mcnn"))
    table = {"gan": {"images": 4, "steps": 2, "batch_size": 4, "width": 0.1, "target": 3}}.get(kind, {})
    with pretended() as guard:
        participant = make_participant(kind, table, 0, tmp_path, DEVICE, "test")
        network = build("mcnn", 4, 0.1, seed=0).to(DEVICE)
        assert participant.shard(network, shard_for("mcnn"), 1).images.device.type == "cpu"
        participant.reply(network, 1)
    check(guard, {("attacker/active/gan.py", "sampled"): 1, ("fedinverse/storage.py", "_as_numpy"): 50})


@pytest.mark.parametrize("steps", get_args(Updates.model_fields["steps"].annotation))
def test_update_inversion(steps: str) -> None:
    others = LocalTraining(steps=2, rate=0.1, momentum=0.9, batch=2)
    settings = Updates(images=4, iterations=2, steps=steps)
    with pretended() as guard:
        network = build("mcnn", 3, 0.1, seed=0)
        update = {name: torch.ones_like(weight, dtype=torch.float64) for name, weight in network.named_parameters()}
        random = torch.Generator().manual_seed(0)
        images, _ = reconstruct(network.to(DEVICE), update, torch.arange(4) % 3, settings, others, random)
    assert images.shape == (4, 1, 32, 32)
    check(guard, {("attacker/updates/update_inversion.py", "reconstruct"): 2})


def test_membership(tmp_path: Path) -> None:
    """Every score, of captures alone and by reference models, with and without the control world's."""
    shard, member = shard_for("lenet5", 8), np.arange(8) % 2 == 0
    asked = Candidates(shard.images, shard.labels, member, np.arange(8))
    about: dict[str, str | int | float] = {"model": "lenet5", "width": 0.1, "classes": 3}
    models = {number: tmp_path / f"{number}.safetensors" for number in (1, 2)}
    for number, path in models.items():
        save_weights(path, to_weights(build("lenet5", 3, 0.1, seed=number)), about)
    held = Holdings(shard.images, shard.labels)
    seat = Seat(held, References(count=1, epochs=1), str(DEVICE), 0)
    with pretended() as guard:
        worlds = [build("lenet5", 3, 0.1, seed=0).to(DEVICE)]
        _, scores = measured(asked, models, models, seat, Membership(), worlds)
    assert set(scores) == {*SCORES, *BOUNDS}
    whole = {
        ("attacker/membership/signals.py", "_on_one_model"): 8,
        ("attacker/membership/signals.py", "confidences"): 16,
    }
    check(guard, whole)


def test_the_embedding_of_colours() -> None:
    with pretended() as guard:
        assert describe(torch.rand(5, 3, 64, 64).to(DEVICE)).device == DEVICE
    check(guard, {})


def test_every_question_and_defence_is_tried() -> None:
    """Fails if a question, a defence or a switch of one is added that nothing here tries on the device."""
    assert set(SECTIONS) == {"attacks", "updates", "membership", "active"}
    for name in defence_names():
        for setting, entry in make_defence(name, {}, "test").Settings.model_fields.items():
            values = {each for kind in (entry.annotation, *get_args(entry.annotation)) for each in _literals(kind)}
            tried = {table.get(setting, entry.default) for other, table in DEFENDED if other.startswith(name[:4])}
            assert values <= tried, (name, setting)


def _literals(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) is Literal else ()
