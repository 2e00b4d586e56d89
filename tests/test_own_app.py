"""Auditing apps that we did not write: the three examples end to end, and every way an audit.toml can be wrong."""

import json
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from flwr.app import Array, ArrayRecord, Message, RecordDict
from test_doors import commands
from typer.testing import CliRunner

from fedinverse.config import read_table
from fedinverse.errors import FedInverseError
from fedinverse.models import build
from fedinverse.received import weights_in
from fedinverse.run import Run
from fedinverse.storage import read_jsonl, read_metadata, read_object
from pipeline.api import _assignments
from pipeline.cli.main import app as program
from pipeline.ownapp.app import FlowerApp
from pipeline.ownapp.audit import audit_app, opened
from pipeline.ownapp.client import deal, hook_marker
from pipeline.ownapp.federate import check_fit, federate_app
from pipeline.ownapp.grid import Broadcasts
from pipeline.ownapp.init import init
from pipeline.ownapp.plan import Plan
from pipeline.ownapp.prepare import names_of
from pipeline.ownapp.settings import FILE, AppAudit, Inputs, read_settings

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PAGE = EXAMPLES.parent / "docs" / "audit-your-app.md"
QUICK: dict[str, Any] = {
    "engine": "local",
    "actors": 1,
    "schedule": {"restarts": 2, "processes": 1, "rounds": "last"},
    "attack": {
        "kind": "gmi",
        "iterations": 3,
        "prior": {"width": 0.1, "steps": 2, "critic_steps": 1, "batch_size": 8},
    },
}


def quick(judge: str) -> dict[str, Any]:
    return {**QUICK, "audit": {"evaluator": {"model": judge, "width": 0.1, "epochs": 1}, "unaided_steps": 0}}


@pytest.fixture(autouse=True)
def _modules_of_apps() -> Iterator[None]:
    """Every test imports its app anew."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.split(".")[0] in ("signs", "digits", "tiles", "mini", "mini_hook", "mini_user"):
            del sys.modules[name]


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


# ---------------------------------------------------------------- a small app, and what can be wrong with audit.toml
MINI = """
import numpy as np, torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import nn

class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.b = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(1024), nn.Linear(1024, 4))
    def forward(self, x):
        return self.b(x)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 5, stride=4), nn.Linear(4 * 7 * 7, 4)
    def forward(self, x):
        return self.b(torch.relu(self.a(x)).flatten(1))

def pixels(labels, seed):
    random = np.random.default_rng(seed)
    bright = (1 + np.asarray(labels)[:, None, None, None]) / 5
    return (random.random((len(labels), 1, 32, 32)) * bright).astype("float32")

def load(number, count):
    labels = np.zeros(120, int) if number == 0 else 1 + np.arange(120) % 3
    return pixels(labels, number), labels

def held():
    labels = np.arange(240) % 4
    return pixels(labels, 99), labels

def other_labels(number, count):
    return load(number, count)[0], load(number, count)[1] + 3

def negative(number, count):
    return load(number, count)[0] * 2 - 1, load(number, count)[1]

def lonely(number, count):
    images, labels = load(number, count)
    return (images[:1], labels[:1]) if number == 2 else (images, labels)

def shared(number, count):
    labels = np.arange(120) % 4
    return pixels(labels, number), labels

def worded(number, count):
    images, labels = load(number, count)
    return list(zip(images, [("none", "a", "b", "c")[label] for label in labels]))

def different(number, count):
    labels = np.random.default_rng().integers(0, 4, 40)
    return pixels(labels, 3), labels

def small(number, count):
    images, labels = load(number, count)
    return images[:, :, :28, :28], labels

def raising(number, count):
    raise FileNotFoundError("/data/hospital-%d" % number)

client, other, failing = ClientApp(), ClientApp(), ClientApp()

@client.train()
def train(msg: Message, context: Context) -> Message:
    load(context.node_config["partition-id"], context.node_config["num-partitions"])
    return Message(RecordDict({"w": msg.content["arrays"], "m": MetricRecord({"num-examples": 1})}), reply_to=msg)

@other.train()
def train_without_the_hook(msg: Message, context: Context) -> Message:
    return Message(RecordDict({"w": msg.content["arrays"], "m": MetricRecord({"num-examples": 1})}), reply_to=msg)

@failing.train()
def train_and_fail(msg: Message, context: Context) -> Message:
    raise ZeroDivisionError("no images in this hospital")

server, deaf, broken, idle = ServerApp(), ServerApp(), ServerApp(), ServerApp()

@server.main()
def main(grid, context):
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=context.run_config["nodes"])
    strategy.start(grid=grid, initial_arrays=ArrayRecord(Net().state_dict()), num_rounds=1, timeout=20)

@deaf.main()
def to_the_first_two(grid, context):
    from flwr.serverapp import Grid
    for node in list(grid.get_node_ids())[:2]:
        content = RecordDict({"arrays": ArrayRecord(Net().state_dict()), "c": ConfigRecord({})})
        list(grid.send_and_receive([Message(content, node, "train")]))

@broken.main()
def raise_at_once(grid, context):
    raise KeyError("server-address")

@idle.main()
def nothing(grid, context):
    pass
"""
PROJECT = """
[project]
name = "mini"
[tool.flwr.app.components]
serverapp = "mini:{server}"
clientapp = "mini:{client}"
[tool.flwr.app.config]
nodes = 2
"""
AUDIT: dict[str, Any] = {
    "clients": 4,
    "victim": 0,
    "attacker": 3,
    "model": "mini:Net",
    "classes": 4,
    "data": "mini:load",
    "held_out": "mini:held",
    "public": "glyphs",
    "public_limit": 50,
    "patience": 1.0,
    "inputs": {"shape": [1, 32, 32]},
    **quick("scnn"),
}


def mini(directory: Path, *, server: str = "server", client: str = "client", **changes: Any) -> Path:
    """Write the small app with an audit.toml; None takes a key out."""
    (directory / "mini.py").write_text(MINI)
    (directory / "pyproject.toml").write_text(PROJECT.format(server=server, client=client))
    table = {key: value for key, value in {**AUDIT, **changes}.items() if value is not None}
    (directory / FILE).write_text(tomli_w.dumps(table))
    return directory


BEFORE = [
    ({"clientt": 3}, "unknown key 'clientt'"),
    ({"classes": None}, "key 'classes' is required"),
    ({"attacker": 4}, "attacker is 4, but clients = 4 run from 0"),
    ({"attacker": 0}, "attacker and victim are both 0"),
    ({"held_out": 1.5}, "held_out is 1.5"),
    ({"app": "elsewhere"}, "app: .*elsewhere has no pyproject.toml"),
    ({"server": "nobody"}, "serverapp = 'mini:nobody': module 'mini' has no 'nobody'"),
    ({"model": "mini:Nett"}, r"model = 'mini:Nett': module 'mini' has no 'Nett' \(it has: .*Net"),
    ({"model": "minni:Net"}, r"(?s)module 'minni' cannot be imported.*ModuleNotFoundError"),
    ({"classes": 5}, r"\(2, 5\) is needed for classes = 5"),
    ({"inputs": {"shape": [3, 32, 32]}}, r"(?s)cannot read images \(3, 32, 32\).*RuntimeError"),
    ({"inputs": {"shape": [2, 32, 32]}}, "images of 1 or 3 channels"),
    ({"data": "mini:other_labels"}, "labels from 3 to 3|labels from 4 to 6, but classes = 4 are 0 to 3"),
    ({"data": "mini:negative"}, 'values from -1 to .*; give pixels in .0, 1.; .* set pixels = "input"'),
    (
        {"data": "mini:shared", "without": "classes"},
        "client 0 .victim. holds no class alone.*nobody does.*his or the class",
    ),
    ({"data": "mini:worded"}, "gave the label 'none'; classes is a number: write their names"),
    ({"data": "mini:worded", "classes": ["none", "a", "b", "d"]}, "gave the label 'c'; classes are none, a, b, d"),
    ({"data": "mini:different"}, "gave other images when it was asked again"),
    ({"data": "mini:small"}, r"gave an image of shape \(1, 28, 28\), but inputs.shape = \[1, 32, 32\]"),
    ({"data": "mini:raising"}, r"(?s)called with \(0, 4\) failed.*mini.py.*FileNotFoundError: /data/hospital-0"),
    ({"data": "load"}, "write it as package.module:name"),
    ({"held_out": "test"}, "held_out is 'test', but .* no second part"),
    ({"held_out": 0.1}, "held_out = 0.1 leaves .* images to train the evaluator on"),
    ({"victim_classes": [1]}, r"victim_classes: 1 is held by clients \[1, 2, 3\]"),
    ({"victim": 1, "without": "classes"}, r"client 1 .victim. holds no class alone, .*client 0: 0"),
    ({"public": "glyphz"}, "public: data source 'glyphz' is unknown"),
    ({"public": "cifar10"}, r"public = 'cifar10' has 3 channel"),
]


@pytest.mark.parametrize(
    ("changes", "message"), BEFORE, ids=lambda value: str(value)[:40] if isinstance(value, dict) else ""
)
def test_what_is_wrong_is_said_before_any_work(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    app = mini(tmp_path, **changes)
    with pytest.raises(FedInverseError, match=message):
        audit_app(app, out=tmp_path / "runs")
    assert not list(tmp_path.glob("runs/*/config.json"))


DURING = [
    ({"server": "broken"}, r"(?s)its ServerApp raised.*app.log.*mini.py.*KeyError: 'server-address'"),
    ({"client": "failing"}, r"(?s)every client failed.*client 0 raised.*ZeroDivisionError: no images in this hospital"),
    ({"client": "other", "held_out": 0.45}, "clients do not load their images with 'mini:load'"),
    ({"server": "deaf"}, r"client 3 was never sent the model in 2 round.*clients that were: 0, 1"),
    ({"model": "mini_other:Other"}, r"(?s)does not fit the model.*a.weight \[8, 1, 5, 5\] +a.weight \[4, 1, 5, 5\]"),
]


@pytest.mark.parametrize(
    ("changes", "message"), DURING, ids=lambda value: str(value)[:40] if isinstance(value, dict) else ""
)
def test_a_federation_that_is_of_no_use_is_refused_by_its_key(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "mini_other.py").write_text(
        "import mini\nfrom torch import nn\n\nclass Other(mini.Net):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.a, self.b = nn.Conv2d(1, 8, 5, stride=4), nn.Linear(8 * 7 * 7, 4)\n"
    )
    app = mini(tmp_path, **changes)
    with pytest.raises(FedInverseError, match=message):
        audit_app(app, out=tmp_path / "runs")
    sys.modules.pop("mini_other", None)


def test_the_victims_node_is_hidden_and_a_strategy_that_needs_it_is_named(tmp_path: Path) -> None:
    app = mini(tmp_path, run_config={"nodes": 4})
    with pytest.raises(
        FedInverseError, match=r"the 3 there are \(the victim's is hidden in the control world\).*without ="
    ):
        audit_app(app, out=tmp_path / "runs")
    # Nothing is lost: with the app mended the first world is not run again.
    done = tmp_path / "runs" / "app" / "federation" / "with_victim" / "done.json"
    stamp = done.stat().st_mtime_ns
    with pytest.raises(FedInverseError, match=r"started with another audit.toml .differs in app.run_config.nodes"):
        audit_app(mini(tmp_path), out=tmp_path / "runs", resume=True)
    with pytest.raises(FedInverseError, match="exists already; continue it with --resume"):
        audit_app(app, out=tmp_path / "runs")
    assert done.stat().st_mtime_ns == stamp


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


def test_a_victim_who_shares_his_classes_leaves_the_control_world(tmp_path: Path) -> None:
    app = mini(tmp_path, data="mini:shared", held_out="mini:held", run_config={"nodes": 2}, inputs={
        "shape": [1, 32, 32], "mean": 0.5, "std": 0.5})  # fmt: skip
    with opened(app, (), tmp_path / "runs", resume=False) as prepared:
        for world in ("with_victim", "without_victim"):
            federate_app(prepared, world, lambda world, line: None)
    run = prepared.run
    assert run.population.shares_classes
    assert run.victim_classes == (0, 1, 2, 3)
    assert [line.victim_accuracy is None for line in run.recorded_rounds("without_victim")] == [False]
    sent = {world: {line["partition"] for line in read_jsonl(run.files.server.ledger(world))} for world in run.worlds}
    assert sent == {"with_victim": {0, 1, 2, 3}, "without_victim": {1, 2, 3}}


def test_a_client_who_cannot_train_on_his_one_image_is_named_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = mini(tmp_path, data="mini:lonely", model="mini:Normed", held_out="mini:held")
    with opened(app, (), tmp_path / "runs", resume=False):
        said = " ".join(capsys.readouterr().out.split())
    assert "data gives client 2 a single image, and mini:Normed cannot train on one: Expected more than 1 value" in said


def test_two_records_that_could_be_the_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr("pipeline.ownapp.grid.os._exit", stop)
    plan = Plan("", "", "", {}, 3, 2, 0, "with_victim", False, str(tmp_path), "", {}, (), "", "", "", "local", 1, 1.0)
    records = {name: ArrayRecord({"w": Array(np.zeros(4, np.float32))}) for name in ("variates", "weights")}
    message = Message(RecordDict({**records, "small": ArrayRecord({"s": Array(np.zeros(2, np.float32))})}), 5, "train")
    with pytest.raises(SystemExit):
        Broadcasts(plan, {5: 0}).note([message])
    assert read_object(tmp_path / "failed.json")["text"] == "variates, weights"
    Broadcasts(replace(plan, record="weights"), {5: 0}).note([message])
    (line,) = read_jsonl(tmp_path / "ledger.jsonl")
    assert line["partition"] == 0


def test_a_tied_parameter_is_sent_once_and_kept_under_every_name() -> None:
    network = build("strangers:Tied?shape=3,32,32", 10, seed=0)
    settings = AppAudit.model_construct(state="parameters")
    names = names_of(settings, network)
    sent = ArrayRecord([parameter.detach().numpy() for parameter in network.parameters()])
    weights = weights_in(sent, names)
    check_fit(weights, network, "")
    assert np.array_equal(weights["body.2.0.weight"], weights["body.3.0.weight"])


def test_a_bare_list_of_many_arrays_is_listed_in_its_order() -> None:
    network = build("strangers:Batch?shape=3,32,32", 10, seed=0)
    state = [value.numpy() for value in network.state_dict().values()]
    weights = {str(place): state[place] for place in sorted(range(len(state)), key=str)}
    with pytest.raises(FedInverseError, match=rf"bare list of {len(state)}: set state") as refused:
        check_fit(weights, network, "it")
    assert re.search(r"body.1.weight \[8\] +2 \[8\]", str(refused.value))


def test_the_hook_is_dealt_wherever_it_was_imported_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mini_hook.py").write_text("def load(number, count):\n    return [(number, 0)] * 5\n")
    (tmp_path / "mini_user.py").write_text("from mini_hook import load as images\n")
    user = import_module("mini_user")
    deal("mini_hook:load", {"1": [0, 3]}, tmp_path)
    assert user.images(1, 2) == [(1, 0)] * 2
    assert hook_marker(tmp_path, "1").exists()


def test_parts_of_data_keep_their_form() -> None:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    from pipeline.ownapp.images import chosen, images_and_labels, training_part

    images, labels = torch.rand(6, 1, 32, 32), torch.arange(6)
    loader = DataLoader(TensorDataset(images, labels), batch_size=2, shuffle=True)
    rows = [{"img": image[0].numpy(), "label": int(label)} for image, label in zip(images, labels, strict=True)]
    forms: list[Any] = [
        (images.numpy(), labels.numpy()), TensorDataset(images, labels), loader, (loader, loader), rows,
        {"train": rows, "test": []},
    ]  # fmt: skip
    for form in forms:
        part = chosen(form, [1, 4])
        assert type(training_part(part)) is type(training_part(form)) or isinstance(form, TensorDataset)
        resized, kept = images_and_labels(training_part(part), (1, 32, 32), (1, 32, 32), None, "data")
        assert kept.tolist() == [1, 4]
        assert np.allclose(resized / 255, images[[1, 4]], atol=0.003)
