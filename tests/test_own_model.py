"""``fedinverse audit-model``: one weights file, audited with the private images at hand."""

import importlib
import io
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from test_doors import commands
from typer.testing import CliRunner

import fedinverse
from auditor.targets import Targets
from fedinverse.errors import ConfigError, DataError, FedInverseError, IntegrityError
from fedinverse.models import build
from fedinverse.run import Run
from fedinverse.storage import save_weights
from pipeline.cli.main import app
from pipeline.ownmodel.audit import audit_model
from pipeline.ownmodel.prepare import prepare_model
from pipeline.ownmodel.settings import ModelAudit
from pipeline.ownmodel.weights import load
from pipeline.stages.invert import _show
from report.console import console

SMALL = (
    *("attack.iterations=2", "attack.prior.steps=1", "attack.prior.width=0.1", "attack.prior.batch_size=8"),
    *("attack.prior.critic_steps=1", "attacker.restarts=2", "attacker.processes=1", "audit.unaided_steps=2"),
    *("audit.evaluator.epochs=1", "audit.evaluator.width=0.1", "data.public_limit=80", "data.private_limit=400"),
)
OWN = '''
from torch import nn

class Net(nn.Module):
    """Reads 3 x 28 x 28 pixels; so many channels, so many classes."""

    def __init__(self, channels=4, num_classes=2):
        super().__init__()
        layers = nn.Conv2d(3, channels, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(36 * channels, num_classes)
        self.body = nn.Sequential(*layers)

    def forward(self, images):
        return self.body(images)
'''


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return weights that know nothing, as torch.save writes them."""
    path = tmp_path_factory.mktemp("weights") / "net.pth"
    torch.save(build("mcnn", 10, 0.1, seed=3).state_dict(), path)
    return path


def said(file: Path, *settings: str, **changes: Any) -> ModelAudit:
    given: dict[str, Any] = {"private": "mnist", "public": "glyphs", "model": "mcnn", "classes": (0, 4)}
    return ModelAudit(file, **given | changes, settings=(*SMALL, *settings))


@pytest.fixture(scope="module")
def audited(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    """Return the audit of these weights, and what was printed."""
    with console.capture() as printed:
        path = audit_model(said(weights), tmp_path_factory.mktemp("runs"))
    return Run(path), printed.get()


def test_one_file_is_audited_with_the_arms_that_need_no_federation(audited: tuple[Run, str]) -> None:
    run, printed = audited
    scores = pd.read_parquet(run.files.auditor.scores)
    assert set(scores["arm"]) == {"A", "B0", "B1", "B4", "B5", "T1", "CEIL"}
    assert set(scores.loc[scores["arm"] == "A", "label"]) >= {0, 4}
    assert run.model.width == 0.1  # read from the file's shapes
    assert [each.arm for each in Targets.read(run).left_out] == ["B2", "B3"]
    verdict = json.loads(run.files.verdict.read_text())
    assert verdict["outcome"] == "inconclusive"
    assert "one weights file, and no model that was trained without the victim" in verdict["reasons"][0]
    assert "audit-app" in verdict["sentence"]
    assert any("no --held-out" in mark for mark in verdict["marks"])
    assert "Control world" in printed
    assert "near chance" in " ".join(printed.split())
    assert "one weights file" in " ".join(run.files.report.read_text().split())


def test_a_lines_arm_is_that_of_the_model_it_inverts() -> None:
    """The Type-I test inverts the attack's model once more; "no prior" is said of its line alone."""
    told = [
        {"job": job, "weights": weights, "what": "optimising", "done": 2, "total": 2}
        for job, weights in (("gmi on round 1", "a"), ("gmi on round 0", "b"), ("type-i-test on round 1", "a"))
    ]
    command = [sys.executable, "-c", f"import json\nfor line in {told!r}: print(json.dumps(line))"]
    printed = io.StringIO()
    with Progress(console=Console(file=printed, width=80)) as bar:
        _show(subprocess.Popen(command, stdout=subprocess.PIPE, text=True), bar, {"a": "attack", "b": "untrained"})
    said = [line.strip() for line in printed.getvalue().splitlines() if "2 steps" in line]
    assert said == [
        "gmi on round 1, attack: optimising, 2 steps",
        "gmi on round 0, untrained: optimising, 2 steps",
        "type-i-test on round 1, no prior: optimising, 2 steps",
    ]


def test_images_that_are_held_out_are_the_auditors(tmp_path: Path) -> None:
    """The model's own images are all compared with; the evaluator learns from the others alone."""
    folders(tmp_path / "private", 2, 6, 0)
    folders(tmp_path / "held", 2, 120, 1)
    folders(tmp_path / "public", 2, 20, 2, "other")
    (tmp_path / "own_net_of_a_user.py").write_text(OWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        from own_net_of_a_user import Net  # type: ignore[import-not-found]

        torch.save(Net().state_dict(), tmp_path / "own.pth")
        given = {
            "private": str(tmp_path / "private"),
            "public": str(tmp_path / "public"),
            "held_out": str(tmp_path / "held"),
            "model": "own_net_of_a_user:Net?shape=3,28,28&mean=0.5&std=0.5",
            "classes": (),
        }
        run = prepare_model(said(tmp_path / "own.pth", **given), tmp_path / "runs", resume=False)
        parts = run.split.groupby(["part", "label"]).size()
        assert parts["train"].tolist() == [6, 6]
        assert parts["vault"].tolist() == [72, 72]
        assert parts["reserve"].tolist() == [48, 48]
        assert run.pools["private"].images.shape[1:] == (3, 32, 32)  # 28 pixels on a canvas
        assert not run.pools["private"].images[:, :, 0].any()
        assert run.population.victim_classes == (0, 1)


def test_the_command_of_the_documentation_does_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first command of docs/audit-your-model.md as it stands there, on little data."""
    monkeypatch.chdir(tmp_path)
    folders(tmp_path / "faces", 2, 180, 0)
    folders(tmp_path / "others", 2, 40, 1, "other")
    (tmp_path / "mynet.py").write_text(OWN.replace("3 x 28 x 28", "3 x 32 x 32").replace("36 *", "49 *"))
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.save(importlib.import_module("mynet").Net().state_dict(), tmp_path / "net.pth")
    line = commands(Path(fedinverse.__file__).parent.parent / "docs" / "audit-your-model.md")[0]
    settings = [word for setting in SMALL for word in ("--set", setting)]
    done = CliRunner().invoke(app, [*shlex.split(line)[1:], *settings])
    assert done.exit_code == 0, (done.output, done.exception)
    (page,) = tmp_path.glob("runs/*/report.html")
    assert Run(page.parent).class_names == ("class0", "class1")
    assert json.loads((page.parent / "verdict.json").read_text())["outcome"] == "inconclusive"


def folders(root: Path, classes: int, count: int, seed: int, prefix: str = "class") -> None:
    random = np.random.default_rng(seed)
    for label in range(classes):
        (root / f"{prefix}{label}").mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (12, 12, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / f"{prefix}{label}" / f"{number}.png")


REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...], type[FedInverseError], str]] = {
    "no such file": ({"file": "none.pth"}, (), ConfigError, r"none\.pth does not exist"),
    "a name elsewhere": ({"name": "../evil"}, (), ConfigError, r"--name '\.\./evil' is no name of a file"),
    "no model": ({"model": ""}, (), ConfigError, "give --model"),
    "another model": ({"model": "lenet5"}, (), IntegrityError, "does not fit 'lenet5'"),
    "no such images": ({"private": "faces"}, (), ConfigError, "--private faces: is no directory"),
    "colour": ({"public": "synthfaces_public"}, (), ConfigError, r"--public synthfaces_public.*3 channel"),
    "other classes": ({"public": "mnist59", "private": "mnist04"}, (), ConfigError, "shows 5 classes.*model of 10"),
    "a class beyond": ({"classes": (10,)}, (), ConfigError, "class 10 cannot be attacked"),
    "the victim's own": ({"public": "mnist"}, (), ConfigError, "shares the classes"),
    "too few": ({}, ("data.private_limit=60",), DataError, "has too few|100 are needed"),
    "its own network as judge": ({}, ("audit.evaluator.model=mcnn",), ConfigError, "own architecture"),
    "unknown section": ({}, ("training.epochs=3",), ConfigError, "unknown key 'training'"),
    "unknown attack": ({"kind": "gmj"}, (), ConfigError, "gmi"),
}


@pytest.mark.parametrize(("stored", "fix"), [("m:Net?shape=1,32,32&n=3", "write --model 'm:Net"), ("scnn", "leave --")])
def test_a_file_that_names_another_network_says_what_to_write(stored: str, fix: str, tmp_path: Path) -> None:
    # Of code to be imported the file's word alone is not enough: "leave it out" would be refused next.
    save_weights(tmp_path / "w.safetensors", {"a": np.zeros(2)}, {"model": stored, "width": 1.0, "classes": 3})
    with pytest.raises(ConfigError, match=fix):
        load(tmp_path / "w.safetensors", "m:Net?shape=1,32,32", None)


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_audited_is_refused_and_nothing_is_left(case: str, weights: Path, tmp_path: Path) -> None:
    given, settings, kind, message = REFUSED[case]
    changes = {key: value for key, value in given.items() if key != "file"}
    file = Path(given.get("file", weights))
    with pytest.raises(kind, match=message):
        audit_model(said(file, *settings, **changes), tmp_path / "runs")
    assert not list(tmp_path.rglob("*"))


def test_it_goes_on_where_it_was_and_is_nothing_elses(audited: tuple[Run, str], weights: Path) -> None:
    out = audited[0].path.parent
    before = audited[0].files.verdict.read_bytes()
    with pytest.raises(ConfigError, match="exists already; continue it with --resume"):
        audit_model(said(weights), out)
    with pytest.raises(ConfigError, match=r"started with other options \(differs in attacker\.restarts\)"):
        audit_model(said(weights, "attacker.restarts=3"), out, resume=True)
    with console.capture() as printed:
        result = fedinverse.audit_model(
            weights,
            private="mnist",
            public="glyphs",
            model="mcnn",
            classes=[0, 4],
            out=out,
            resume=True,
            attack={"iterations": 2, "prior": {"steps": 1, "width": 0.1, "batch_size": 8, "critic_steps": 1}},
            attacker={"restarts": 2, "processes": 1},
            audit={"unaided_steps": 2, "evaluator": {"epochs": 1, "width": 0.1}},
            data={"public_limit": 80, "private_limit": 400},
        )
    assert "up to date" in printed.get()
    assert {"A", "B0", "B1", "B4"} <= set(result.table.columns)
    assert "<table" in result._repr_html_()
    assert audited[0].files.verdict.read_bytes() == before


def test_the_command_line_says_what_it_needs() -> None:
    shown = CliRunner().invoke(app, ["audit-model", "--help"], terminal_width=80)
    assert all(option in shown.output for option in ("--private", "--public", "--held-out", "--model"))
