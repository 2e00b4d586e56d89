"""A hostile server towards clients: bounded, refused by name, and never able to make a node malicious."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from hostile_replies import TRAIN
from strategy_rounds import Load, federated

from attacker.capture import capture
from clients.app import evaluate_round, train_round
from clients.node import client_seed, node_of
from clients.settings import Training
from fedinverse.arrays import to_record
from fedinverse.errors import ConfigError, FedInverseError, StageError
from fedinverse.flower import DEVICE, RUN_DIR, WORLD, client_directory, world_of
from fedinverse.messages import ARRAYS, CONFIG, Instructions
from fedinverse.models import build
from fedinverse.storage import save_array, to_weights
from pipeline.engines.settings import Engine

WIDTH = 0.1


@pytest.fixture(autouse=True)
def _no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that ran in this process before has left its environment."""
    for name in (RUN_DIR, WORLD, DEVICE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def node(tmp_path: Path) -> Context:
    """Return the context of a deployed node with images of its own."""
    data = tmp_path / "data"
    save_array(data / "images.npy", np.zeros((4, 1, 32, 32), np.uint8))
    save_array(data / "labels.npy", np.array([0, 1, 2, 3]))
    config: dict[str, Any] = {"partition-id": 1, "data-path": str(data), "seed": 3, "max-model-mb": 50, "max-epochs": 5}
    return Context(1, 7, config, RecordDict(), {})


def message(kind: str = "train", weights: Any = None, **config: Any) -> Message:
    """Return an honest message with some keys of its config changed; None takes one away."""
    arrays = weights if weights is not None else to_record(to_weights(build("mcnn", 10, WIDTH, seed=0)))
    record = {**Instructions.record("mcnn", WIDTH, 10, Training().model_dump()), "server-round": 1}
    record |= {key.replace("_", "-") if key == "server_round" else key: value for key, value in config.items()}
    settings = ConfigRecord({key: value for key, value in record.items() if value is not None})
    return Message(RecordDict({ARRAYS: arrays, CONFIG: settings}), 7, kind)


def test_an_honest_message_is_answered(node: Context) -> None:
    assert not train_round(message(), node).has_error()
    assert not evaluate_round(message("evaluate"), node).has_error()


KINDS: dict[str, Callable[[], Message]] = {
    "width 1e9": lambda: message(width=1e9),
    "width NaN": lambda: message(width=math.nan),
    "width negative": lambda: message(width=-1.0),
    "width text": lambda: message(width="wide"),
    "width a list": lambda: message(width=[0.1]),
    "another width": lambda: message(width=4.0),
    "classes 1e9": lambda: message(classes=10**9),
    "classes negative": lambda: message(classes=-3),
    "classes a fraction": lambda: message(classes=9.5),
    "other classes": lambda: message(classes=90_000),
    "no model": lambda: message(model=None),
    "an unknown model": lambda: message(model="nothing"),
    "code to import": lambda: message(model="os:abort"),
    "code that adapts a plain network": lambda: message(
        model="torchvision:resnet18?shape=3,32,32&output=imported_here:f"
    ),
    "code in escapes": lambda: message(model="mcnn?shape=1,32,32&transform=imported_here%3Af"),
    "a path": lambda: message(model="../../evil"),
    "a model of bytes": lambda: message(model=b"mcnn"),
    "no round": lambda: message(server_round=None),
    "round -5": lambda: message(server_round=-5),
    "round text": lambda: message(server_round="one"),
    "epochs 1e12": lambda: message(epochs=10**12),
    "more epochs than allowed": lambda: message(epochs=6),
    "epochs text": lambda: message(epochs="many"),
    "an unknown optimiser": lambda: message(optimizer="os.abort"),
    "a rate of NaN": lambda: message(lr=math.nan),
    "a rate that overflows": lambda: message(lr=1e308),
    "batches of one image": lambda: message(batch_size=1),
    "an optimiser of 1 MB": lambda: message(optimizer="x" * 10**6),
    "a list of 1 MB for a number": lambda: message(lr=[1] * 300_000),
    "an endless proximal weight": lambda: message(**{"proximal-mu": math.inf}),
    "no config": lambda: Message(RecordDict({ARRAYS: ArrayRecord()}), 7, "train"),
    "no arrays": lambda: Message(RecordDict({CONFIG: message().content[CONFIG]}), 7, "train"),
    "no array": lambda: message(weights=ArrayRecord()),
    "a model too large": lambda: message(weights=to_record({"w": np.zeros(20_000_000, np.float32)})),
    "a header of 1 PB": lambda: Message(TRAIN["header says 1 PB"](message().content), 7, "train"),
    "pickle": lambda: Message(TRAIN["pickle"](message().content), 7, "train"),
    "text": lambda: Message(TRAIN["text"](message().content), 7, "train"),
    "NaN": lambda: Message(TRAIN["NaN weights"](message().content), 7, "train"),
    "another serialisation": lambda: message(weights=ArrayRecord({"w": Array("f4", (1,), "pickle", b"x")})),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_server_may_not_ask_is_refused_by_name_and_the_capture_mod_survives_it(
    kind: str, node: Context, tmp_path: Path
) -> None:
    sent = KINDS[kind]()
    with pytest.raises(FedInverseError) as error:
        train_round(sent, node)
    assert len(str(error.value)) < 700
    node.node_config["spool"] = str(tmp_path / "spool")
    assert capture(sent, node, lambda each, _: each) is sent


@pytest.mark.parametrize("place", ["transform", "output"])
@pytest.mark.parametrize("call", ["torchvision:resnet18", "torchvision.models:resnet18", "mcnn", "named:Net"])
def test_a_server_has_nothing_imported_that_the_operator_did_not_name(
    call: str, place: str, node: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_here.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    node.node_config["model"] = "named:Net?shape=3,32,32"
    for colon in (":", "%3A"):
        with pytest.raises(ConfigError, match="its operator allows that"):
            train_round(message(model=f"{call}?shape=3,32,32&{place}=imported_here{colon}f"), node)
    assert "imported_here" not in sys.modules


def test_a_device_that_torch_does_not_know_is_one_message(node: Context) -> None:
    node.node_config["device"] = "gpu"
    for answer, kind in ((train_round, "train"), (evaluate_round, "evaluate")):
        with pytest.raises(StageError, match=f"this node cannot {kind} as the server asks on device 'gpu'"):
            answer(message(kind), node)


def test_a_capture_of_no_round_leaves_the_spool_readable(node: Context, tmp_path: Path) -> None:
    from attacker.schedule import captured

    node.node_config["spool"] = str(tmp_path / "spool")
    for number in (1, -5, 0):
        capture(message(server_round=number), node, lambda each, _: each)
    assert list(captured(tmp_path / "spool")) == [0]


def test_a_node_without_data_takes_nothing_from_the_servers_run_config(tmp_path: Path) -> None:
    """What a run config says reaches every node."""
    run_config: dict[str, Any] = {"run-dir": str(tmp_path), "world": "with_victim", "role": "malicious", "spool": "/s"}
    for config in ({"partition-id": 1}, {"partition-id": 1, "num-partitions": 4}):
        context = Context(1, 7, dict(config), RecordDict(), run_config)
        for use in (node_of, client_directory):
            with pytest.raises(ConfigError, match="data-path"):
                use(context)
        answered = Message(RecordDict(), 7, "train")
        assert capture(answered, context, lambda each, _: each) is answered
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("world", ["../../..", "", "without", "/tmp"])
def test_a_world_is_one_of_two_words(world: str) -> None:
    for context in (
        Context(1, 7, {"world": world, "partition-id": 0}, RecordDict(), {}),
        Context(1, 0, {}, RecordDict(), {"world": world}),
    ):
        if not world:
            assert world_of(context) == "with_victim"
            continue
        with pytest.raises(ConfigError, match="with_victim"):
            world_of(context)


@pytest.mark.parametrize("key", ["partition-id", "seed", "max-epochs"])
def test_a_node_config_of_another_type_is_refused_by_its_key(key: str, node: Context) -> None:
    for value in ("one", 0.5, -1, True):
        node.node_config[key] = value
        with pytest.raises(ConfigError, match=key):
            node_of(node)


# ------------------------------------------------------------------ seeds and devices


def test_no_message_holds_the_runs_seed_and_every_client_has_its_own(
    tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.engines.local import LocalGrid

    seen: list[Message] = []
    answer = LocalGrid.answer

    def watch(self: LocalGrid, messages: list[Message], timeout: float | None) -> list[Message]:
        seen.extend(messages)
        return answer(self, messages, timeout)

    monkeypatch.setattr(LocalGrid, "answer", watch)
    run = federated(tiny(seed=1234567, federation={"rounds": 1}), tmp_path / "run")
    said = [repr(each.content.config_records) for each in seen]
    assert any("server-round" in each for each in said)
    assert not any("seed" in each or "1234567" in each for each in said)
    assert len({client_seed(run.seed, partition) for partition in range(100)}) == 100


def test_a_deployed_node_without_a_seed_draws_one(node: Context) -> None:
    del node.node_config["seed"]
    assert node_of(node).seed != 3


def test_the_local_engine_and_flowers_give_clients_the_configured_device(
    tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    devices: list[Any] = []

    def look(grid: Any, _: Any) -> None:
        devices.append({node_of(context).device for context in grid.contexts.values()})

    def flowers(*_: Any) -> None:
        context = Context(1, 7, {"partition-id": 0}, RecordDict(), {})  # as Flower's runtime gives it
        devices.append(node_of(context).device)
        with monkeypatch.context() as without:
            without.delenv(DEVICE)
            devices.append(node_of(context).device)

    monkeypatch.setattr("server.app.server_app", lambda *_, **__: look)
    monkeypatch.setattr("pipeline.engines.flower.run_on_flower", flowers)
    federated(tiny(engine={"kind": "local", "client_gpus": 1.0}), tmp_path / "local")
    federated(tiny(engine={"kind": "flower", "client_gpus": 1.0}), tmp_path / "flower")
    assert devices == [{"cuda"}, "cuda", "cpu"]


def test_clients_on_a_gpu_that_is_not_there_are_refused_at_once(tiny: Load, tmp_path: Path) -> None:
    for kind in ("local", "ray", "flower"):
        experiment = tiny(engine={"kind": kind, "client_gpus": 0.5})
        with pytest.raises(ConfigError, match=r"engine\.client_gpus"):
            federated(experiment, tmp_path / kind)


def test_the_servers_device_is_checked_and_used(tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import server.app as server_app

    seen: list[object] = []
    utility = server_app.utility

    def note(network: Any, held_out: Any, victims: Any, device: object) -> Any:
        seen.append(device)
        return utility(network, held_out, victims, "cpu")

    with pytest.raises(ConfigError, match=r"federation\.device 'cuda:7'"):
        federated(tiny(federation={"device": "cuda:7"}), tmp_path / "absent")
    monkeypatch.setattr(server_app, "utility", note)
    monkeypatch.setattr(server_app, "device_on", lambda *_: None)
    federated(tiny(federation={"device": "cuda:7", "rounds": 1}), tmp_path / "there")
    assert set(seen) == {"cuda:7"}


@pytest.mark.parametrize(
    ("engine", "have", "fit"),
    [
        ({"client_gpus": 0.5}, {"CPU": 4, "GPU": 1}, 2),
        ({"client_gpus": 0.6}, {"CPU": 8, "GPU": 2}, 2),
        ({"client_gpus": 2.0}, {"CPU": 8, "GPU": 4}, 2),
        ({}, {"CPU": 4}, 4),
        ({"client_cpus": 2.0}, {"CPU": 5}, 2),
    ],
    ids=str,
)
def test_without_a_number_there_are_as_many_actors_as_the_resources_admit(engine: Any, have: Any, fit: int) -> None:
    assert Engine(**engine).fitting(have) == fit
