"""Auditing a small app: every way an audit.toml, the app or its data can be wrong, and what must hold of parts."""

import re
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from own_apps import SameProcess, mini

from attacker.spool import Spool
from fedinverse.errors import FedInverseError
from fedinverse.models import build
from fedinverse.received import trained, weights_in
from fedinverse.storage import read_jsonl, read_object
from pipeline.ownapp.audit import audit_app, opened
from pipeline.ownapp.client import deal, hook_marker
from pipeline.ownapp.federate import check_fit, federate_app
from pipeline.ownapp.grid import Broadcasts
from pipeline.ownapp.plan import Plan
from pipeline.ownapp.prepare import names_of
from pipeline.ownapp.settings import AppAudit

pytestmark = pytest.mark.usefixtures("modules_of_apps")


@pytest.fixture
def same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare a federation three seconds of imports. The examples and the strategy that waits have a process."""
    monkeypatch.setattr("pipeline.ownapp.federate.subprocess", SimpleNamespace(Popen=SameProcess, DEVNULL=0, STDOUT=0))


BEFORE = [
    ({"clientt": 3}, "unknown key 'clientt'"),
    ({"classes": None}, "key 'classes' is required"),
    ({"attacker": 4}, "attacker is 4, but clients = 4 run from 0"),
    ({"attacker": 0}, "audit.toml: attacker and victim are both 0"),
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
        "client 0 .victim. holds no class alone.*nobody does.*theirs or the class",
    ),
    ({"data": "mini:worded"}, "gave the label 'none'; classes is a number: write their names"),
    ({"data": "mini:worded", "classes": ["none", "a", "b", "d"]}, "gave the label 'c'; classes are none, a, b, d"),
    ({"data": "mini:different"}, "gave other images when it was asked again"),
    ({"data": "mini:small"}, r"gave an image of shape \(1, 28, 28\), but inputs.shape = \[1, 32, 32\]"),
    ({"data": "mini:raising"}, r"(?s)called with \(0, 4\) failed.*mini.py.*FileNotFoundError: /data/hospital-0"),
    (
        {"data": "mini:lonely"},
        r"cannot be called with \(partition_id, num_partitions\): missing a required argument: 'fewest'. It takes "
        r"\(number, count, fewest\); write .* in data_arguments",
    ),
    ({"model": "mini:Deep"}, r"cannot be called so: missing a required argument: 'depth'. .*model_arguments"),
    ({"data": "load"}, "write it as package.module:name"),
    ({"held_out": "test"}, "held_out is 'test', but .* no second part"),
    ({"held_out": 0.1}, "held_out = 0.1 leaves .* images to train the evaluator on"),
    ({"victim_classes": [1]}, r"victim_classes: 1 is held by clients \[1, 2, 3\]"),
    ({"victim": 1, "without": "classes"}, r"client 1 .victim. holds no class alone, .*client 0: 0"),
    ({"held_out": 0.001}, "class '0' has no image for"),
    ({"public": "arrays", "public_root": "none"}, "audit.toml: public = 'arrays', public_root = 'none': "),
    ({"public": "glyphz"}, "public: data source 'glyphz' is unknown"),
    ({"public": "cifar10"}, "public: source 'cifar10' has 3 channel"),
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
@pytest.mark.usefixtures("same_process")
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


@pytest.mark.usefixtures("same_process")
def test_a_victim_who_shares_their_classes_leaves_the_control_world(tmp_path: Path) -> None:
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


def test_a_client_who_cannot_train_on_one_image_is_named_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = mini(tmp_path, data="mini:lonely", data_arguments={"fewest": 1}, model="mini:Normed", held_out="mini:held")
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


def test_rounds_that_an_app_counts_from_zero(tmp_path: Path) -> None:
    """Fails if its first two models are taken for one, at the server or at an attacker who was not sent the first."""
    spool = Spool(str(tmp_path / "spool"))
    spool.write(tmp_path / "spool.json")
    plan = Plan("", "", "", {}, 3, 2, 0, "with_victim", False, str(tmp_path), str(tmp_path / "spool.json"),
                {"model": "scnn", "width": 1.0, "classes": 10}, (), "", "", "", "local", 1, 1.0)  # fmt: skip
    broadcasts = Broadcasts(plan, {5: 0})
    for number in range(3):
        arrays = ArrayRecord({"w": Array(np.full(4, number, np.float32))})
        message = Message(RecordDict({"arrays": arrays}), 5, "train", group_id=str(number))
        broadcasts.note([message])
        if number:
            replace(spool, about=plan.about).keep(message)
    assert [line["round"] for line in read_jsonl(tmp_path / "ledger.jsonl")] == [1, 2, 3]
    assert [path.stem for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "round-0000", "round-0001", "round-0002"
    ]  # fmt: skip
    assert [line["model-round"] for line in read_jsonl(tmp_path / "spool" / "receipts.jsonl")] == [1, 2]


def test_a_client_that_sends_updates_is_told_from_one_that_sends_weights() -> None:
    random = np.random.default_rng(0)
    sent = {"w": random.normal(size=(40, 40)).astype(np.float32), "n": np.array(3)}
    change = {"w": random.normal(size=(40, 40)).astype(np.float32) * 3, "n": np.array(2)}  # larger than the weights
    after = {name: sent[name] + change[name] for name in sent}
    for replied in (change, after):
        weights = trained(sent, replied)
        assert all(np.array_equal(weights[name], after[name]) for name in sent)
    assert trained(sent, {"0": after["w"], "1": after["n"]}).keys() == {"0", "1"}  # a list has other names


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
    with pytest.raises(FedInverseError, match=rf"bare list of 3, the model has {len(state)} arrays.*some layers only"):
        check_fit({str(place): state[place] for place in range(3)}, network, "it")
    with pytest.raises(FedInverseError, match=r"correct model .*some layers only"):
        check_fit({"head.bias": network.state_dict()["head.bias"].numpy()}, network, "it")


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
    from torch.utils.data import DataLoader, Dataset, TensorDataset

    from pipeline.ownapp.images import chosen, images_and_labels, training_part

    images, labels = torch.rand(6, 1, 32, 32), torch.arange(6)
    loader = DataLoader(TensorDataset(images, labels), batch_size=2, shuffle=True)
    rows = [{"img": image[0].numpy(), "label": int(label)} for image, label in zip(images, labels, strict=True)]

    class Kept(Dataset[Any]):
        """Keeps its images and labels in attributes, which its author's code reads."""

        def __init__(self) -> None:
            self.data, self.targets, self.names = images, labels.tolist(), ["a", "b"]

        def __len__(self) -> int:
            return len(self.targets)

        def __getitem__(self, row: int) -> tuple[Any, int]:
            return self.data[row], self.targets[row]

    assert chosen(Kept(), [1, 4]).targets == [1, 4]
    forms: list[Any] = [
        Kept(), (images.numpy(), labels.numpy()), TensorDataset(images, labels), loader, (loader, loader), rows,
        {"train": rows, "test": []},
    ]  # fmt: skip
    for form in forms:
        part = chosen(form, [1, 4])
        assert type(training_part(part)) is type(training_part(form)) or isinstance(form, TensorDataset)
        resized, kept = images_and_labels(training_part(part), (1, 32, 32), (1, 32, 32), None, "data")
        assert kept.tolist() == [1, 4]
        assert np.allclose(resized / 255, images[[1, 4]], atol=0.003)
