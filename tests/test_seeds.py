"""Same seed, same numbers: also of what takes no generator of its own, such as dropout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attacker.losses.students import DistillationSettings, distilled
from attacker.target import PublicSet, Target
from auditor.evaluators.evaluator import train_judge
from auditor.evaluators.material import material_of
from auditor.settings import Evaluator
from clients.defences import make_defence
from clients.settings import Training
from clients.training import train
from fedinverse.models import build
from fedinverse.models.classifier import BlockClassifier
from fedinverse.run import prepare
from fedinverse.seeds import generator, seeded
from fedinverse.shard import Shard
from fedinverse.storage import to_weights, weights_sha256
from pipeline.engines import run_federation
from pipeline.experiment import resolved


class WithDropout(BlockClassifier):
    """One convolution, dropout, linear."""

    input_shape = (1, 32, 32)

    def __init__(self, classes: int, width: float) -> None:
        super().__init__()
        del width
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(1, 4, 7, stride=7), nn.ReLU(), nn.Dropout(0.5))])
        self.pool = nn.Identity()
        self.head = nn.Linear(64, classes)


DROPOUT = f"{__name__}:WithDropout"


def test_a_seeded_block_gives_the_global_generators_back() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded(1):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with seeded(1):
        assert torch.equal(torch.rand(3), first)


def test_local_training_with_dropout_follows_from_its_generator() -> None:
    shard = Shard(torch.randint(256, (12, 1, 32, 32), dtype=torch.uint8), torch.arange(12) % 2)

    def trained(seed: int) -> str:
        network = build(DROPOUT, 2, seed=0)
        train(network, shard, Training(batch_size=4), make_defence("none", {}, "test"), generator(seed, "client"))
        return weights_sha256(to_weights(network))

    one, other = trained(0), trained(1)
    torch.rand(7)  # moves the global generator
    assert trained(0) == one != other


@pytest.mark.parametrize("stopped", [False, True])
def test_a_federation_with_dropout_repeats_also_after_a_stop(
    stopped: bool, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    changes = {"model": {"name": DROPOUT}, "attacks": None, "population": {"malicious": 0}}

    def models(path: Path, *rounds: int) -> list[str]:
        for number in rounds:
            experiment = tiny(**changes, federation={"rounds": number})
            run = prepare(path, resolved(experiment))
            run_federation(run, "with_victim", experiment.engine)
            torch.rand(7)
            if number < rounds[-1]:  # as if killed before its last round
                (path / "config.json").unlink()
        return [line.sha256 for line in run.recorded_rounds("with_victim")]

    assert models(tmp_path / "b", *([1, 2] if stopped else [2])) == models(tmp_path / "a", 2)


def test_evaluator_and_student_with_dropout_repeat(tiny: Callable[..., Any], tmp_path: Path, monkeypatch: Any) -> None:
    run = prepare(tmp_path / "run", resolved(tiny()))
    asked = Evaluator(model=DROPOUT, epochs=1)
    target = Target(build("mcnn", 10, 0.1, seed=0).eval(), "0" * 64, 1, torch.device("cpu"))
    public = PublicSet(run.pools["public"].tensor()[:32], "few")
    few = DistillationSettings(models=(DROPOUT,), steps=3, batch_size=8)

    def networks(name: str) -> list[str]:
        monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path / name))
        judge = train_judge(material_of(run, asked), asked, tmp_path / name / "store").model
        return [weights_sha256(to_weights(network)) for network in (judge, *distilled(1, few, target, public))]

    first = networks("first")
    torch.rand(7)
    assert networks("second") == first
