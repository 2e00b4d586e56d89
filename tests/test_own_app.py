"""Auditing apps that we did not write: the three examples end to end, and what --init writes for them."""

import json
import re
import shlex
import shutil
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from own_apps import quick
from test_doors import commands
from typer.testing import CliRunner

from fedinverse.errors import FedInverseError
from fedinverse.run import Run
from fedinverse.storage import read_jsonl, read_metadata
from fedinverse.tables import read_table
from pipeline.api import _assignments
from pipeline.cli.main import app as program
from pipeline.ownapp.app import FlowerApp
from pipeline.ownapp.audit import audit_app
from pipeline.ownapp.init import init
from pipeline.ownapp.settings import FILE, AppAudit, Inputs, read_settings

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PAGE = EXAMPLES.parent / "docs" / "audit-your-app.md"
pytestmark = pytest.mark.usefixtures("modules_of_apps")


def audited(example: str, out: Path, judge: str, **changes: Any) -> Run:
    """Audit an example as it stands, quickly; only audit.toml is another."""
    app = EXAMPLES / example
    before = {path: path.read_bytes() for path in app.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    file = out / FILE
    file.write_text(tomli_w.dumps({**read_table(app / FILE), "app": str(app), **quick(judge), **changes}))
    run = Run(audit_app(file, out=out / "runs"))
    assert all(path.read_bytes() == content for path, content in before.items())
    return run


def check(run: Run, rounds: list[int], hidden: int) -> dict[str, Any]:
    """Check what every audit must leave; return the verdict."""
    files = run.files
    assert [line.round for line in run.recorded_rounds("with_victim")] == rounds
    ledger = read_jsonl(files.server.ledger("with_victim"))
    received = read_jsonl(files.attacker.spool("with_victim") / "receipts.jsonl")
    attacker = run.population.attackers[0]
    recorded = {
        (line["round"], line["message-type"], line["sha256"]) for line in ledger if line["partition"] == attacker
    }
    assert {(line["round"], line["message-type"], line["sha256"]) for line in received} == recorded
    assert recorded
    without = read_jsonl(files.server.ledger("without_victim"))
    assert hidden not in {line["partition"] for line in without}
    assert hidden in {line["partition"] for line in ledger}
    assert read_metadata(files.auditor.own_shard_model("app"))["model"] == run.model.name
    assert files.report.exists()
    verdict: dict[str, Any] = json.loads(files.verdict.read_text())
    return verdict


def test_a_message_api_app_on_flowers_own_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands and the audit.toml of docs/audit-your-app.md, as they stand there, on few images and rounds."""
    monkeypatch.chdir(tmp_path)
    theirs = Path("examples/signs")
    shutil.copytree(EXAMPLES / "signs", theirs, ignore=shutil.ignore_patterns("__pycache__", FILE))
    init, audit = (shlex.split(line)[1:] for line in commands(PAGE)[:2])
    assert CliRunner().invoke(program, init).exit_code == 0
    (documented,) = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    said, found = (tomllib.loads(text) for text in (documented, (theirs / FILE).read_text()))
    assert (found["model"], found["data"]) == (said["model"], said["data"])  # what it could find out
    (theirs / FILE).write_text(documented)
    changes = {**quick("resnet18_32"), "engine": "flower", "run_config": {"num-server-rounds": 1}}
    settings = [word for setting in _assignments(changes) for word in ("--set", setting)]
    done = CliRunner().invoke(program, [*audit, *settings])
    assert done.exit_code == 0, (done.output, done.exception)
    run = Run(tmp_path / "runs" / "signs")
    check(run, [0, 1], 0)  # evaluate messages carry the last model
    page = run.files.report.read_text()
    assert "the app &#39;signs&#39;" in page or "the app 'signs'" in page
    assert "num-server-rounds = 1" in page
    assert "public images (signs.task:other_signs)" in page
    assert "private signs.task:load_data, " in page  # where the data are from, not how they are kept
    assert f"flwr {version('flwr')}" in page  # when, and with which versions
    assert "not recorded" not in page


def test_a_legacy_app_that_sends_a_list(tmp_path: Path) -> None:
    run = audited("digits_list", tmp_path, "scnn", run_config={"rounds": 2})
    check(run, [0, 1, 2], 0)
    capture = next(run.files.attacker.spool("with_victim").glob("*.safetensors"))
    assert read_metadata(capture)["classes"] == "10"
    kept = run.split
    trained = kept[kept["part"] == "train"]
    assert set(trained.loc[trained["client"] == 0, "label"]) == {0, 1, 2}
    assert 0.3 < (kept["part"] != "train").mean() < 0.5  # two fifths were kept from the clients


def test_a_fedadam_app_of_the_huggingface_kind(tmp_path: Path) -> None:
    run = audited("tiles", tmp_path, "scnn", run_config={"rounds": 2})
    check(run, [0, 1], 0)  # nothing is evaluated: the model after the last round is sent to nobody
    assert run.population.victim_classes == (0,)


def test_init_writes_every_key_and_what_it_could_find(tmp_path: Path) -> None:
    for example in ("signs", "digits_list", "tiles"):
        app = tmp_path / example
        shutil.copytree(EXAMPLES / example, app, ignore=shutil.ignore_patterns(FILE, "__pycache__"))
        text = init(app).read_text()
        for key in {*AppAudit.model_fields, *Inputs.model_fields} - {
            "attack",
            "schedule",
            "audit",
            "inputs",
            "run_config",
        }:
            assert f"{key} = " in text, key
        settings = read_settings(app / FILE)  # what it writes can be read
        assert settings.model in ("signs.task:Net", "digits.model:CNN", "tiles.model:TileTransformer")
        assert settings.data in ("signs.task:load_data", "digits.model:office", "tiles.data:Tiles")
        assert (settings.name.split("-")[0], settings.classes) == (example.split("_")[0], 10)  # 10: to be filled in
        assert settings.state == ("list" if example == "digits_list" else "state_dict")
    with pytest.raises(FedInverseError, match="exists already; it is kept"):
        init(tmp_path / "signs")
    packaged = tmp_path / "packaged"  # src layout; a client that sends its parameters alone
    shutil.copytree(EXAMPLES / "digits_list", packaged, ignore=shutil.ignore_patterns(FILE, "__pycache__"))
    (packaged / "src").mkdir()
    (packaged / "digits").rename(packaged / "src" / "digits")
    model = packaged / "src" / "digits" / "model.py"
    model.write_text(
        model.read_text() + "\n\ndef sent(net):\n    return [p.detach().numpy() for p in net.parameters()]\n"
    )
    settings = read_settings(init(packaged))
    assert (settings.model, settings.state) == ("digits.model:CNN", "parameters")
    FlowerApp.read(packaged).load("clientapp")
    assert read_settings(tmp_path / "signs" / FILE).data == "signs.task:load_data"
