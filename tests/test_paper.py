"""The paper-scale path, shrunken: CelebA's layout, VGG16, KED-MI, the evaluator of faces, audit and report."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from fedinverse.data.celeba import write_celeba_layout
from fedinverse.house import CONFIGS
from fedinverse.run import Run
from fedinverse.storage import read_json
from fedinverse.tables import laid_over, read_table
from pipeline.experiment import load_experiment
from pipeline.stages.all_stages import run_all

PEOPLE = 10  # half of them private; enough that the vault has the 100 images the embedding needs
# configs/paper/celeba.toml with these changes: everything smaller, nothing replaced.
SHRUNKEN: dict[str, Any] = {
    "population": {"clients": 3, "victim_classes": [0, 1], "overlap": 0.5},
    "data": {"public_limit": 60},
    "split": {"train": 0.2, "vault": 0.7, "reserve": 0.1},
    "model": {"width": 0.0625},
    "training": {"epochs": 1, "batch_size": 16, "lr": 1e-3},
    "federation": {"rounds": 2},
    "engine": {"kind": "local", "client_gpus": 0.0},
    "attacker": {"rounds": "last", "restarts": 2, "device": "cpu", "processes": 1},
    "attacks": {
        "kedmi": {"iterations": 3, "prior": {"width": 0.0625, "steps": 2, "critic_steps": 1, "batch_size": 8}},
    },
    "audit": {"without_victim": False, "unaided_steps": 0, "evaluator": {"width": 0.0625, "epochs": 1}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    import tomli_w

    folder = tmp_path_factory.mktemp("paper")
    root = str(write_celeba_layout(folder / "celeba", PEOPLE * 30))
    path = folder / "small.toml"
    table = laid_over(read_table(CONFIGS / "paper" / "celeba.toml"), SHRUNKEN)
    path.write_text(tomli_w.dumps(laid_over(table, {"data": {"private_root": root, "public_root": root}})))
    experiment = load_experiment(str(path), [], folder / "runs")
    run_all(experiment, resume=False)
    return Run(folder / "runs" / experiment.name)


def test_private_and_public_are_different_people_of_one_celeba(run: Run) -> None:
    private, public = run.pools["private"], run.pools["public"]
    assert private.images.shape == (PEOPLE // 2 * 30, 3, 64, 64)
    assert len(private.class_names) == PEOPLE // 2
    assert not set(private.class_names) & set(public.class_names)
    assert "list of 300 images" in str(private.about["origin"])


def test_the_vgg16_was_captured_inverted_and_judged_by_another_network(run: Run) -> None:
    assert (run.model.name, run.table["audit"]["evaluator"]["model"]) == ("vgg16", "facenet112")
    assert len(run.recorded_rounds("with_victim")) == 3
    assert list(run.files.attacker.spool("with_victim").glob("round-0002.safetensors"))
    scores = pd.read_parquet(run.files.auditor.scores)
    mine = scores[(scores["arm"] == "A") & (scores["attack"] == "kedmi") & (scores["metric"] == "attack-accuracy")]
    assert set(mine["label"]) == {0, 1}
    assert mine["value"].between(0, 1).all()


def test_the_verdict_and_the_report_are_there(run: Run) -> None:
    assert "kedmi" in read_json(run.files.verdict)["sentence"]
    assert (run.files.report).stat().st_size > 10_000


def test_a_federation_without_a_victim_runs_through(tmp_path: Path) -> None:
    """configs/paper/mnist.toml shrunken: nobody attacks, nobody is audited, who holds what is still shown."""
    small = ["population.clients=4", "federation.rounds=1", "federation.fraction_train=0.5", "model.width=0.1"]
    small += [
        "data.private_limit=1200",
        "split.train=0.8",
        "split.vault=0.05",
        "split.reserve=0.15",
        "engine.kind=local",
    ]
    page = run_all(load_experiment("paper/mnist", small, tmp_path), resume=False)
    run = Run(page.parent)
    assert [line.victim_accuracy for line in run.recorded_rounds("with_victim")] == [None, None]
    assert pd.read_csv(run.files.partition_table)["role"].unique().tolist() == ["honest"]
    assert "No attack was run" in page.read_text()


def test_the_reconstructions_are_pictures_of_the_targets_size(run: Run) -> None:
    from safetensors.torch import load_file

    files = sorted(run.files.attacker.inversions.glob("kedmi/*/*.safetensors"))
    assert files
    images = load_file(files[0])["images"]
    assert images.shape[1:] == (3, 64, 64)
    assert torch.isfinite(images).all()
