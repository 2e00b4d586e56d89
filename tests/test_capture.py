"""The capture mod: it stores what arrives, changes nothing, and is switched on by the node alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from attacker.capture import capture
from attacker.schedule import captured, due
from attacker.settings import Attacker
from clients.node import node_of
from fedinverse.arrays import to_record
from fedinverse.errors import ConfigError, StageError
from fedinverse.messages import ARRAYS, CONFIG
from fedinverse.shard import Shard
from fedinverse.storage import load_weights, read_jsonl

NOTHING = Shard(np.empty(0), np.empty(0))  # type: ignore[arg-type]


def message(kind: str, server_round: int, value: float) -> Message:
    config = ConfigRecord({"server-round": server_round, "model": "mcnn", "width": 0.1, "classes": 10})
    return Message(RecordDict({ARRAYS: to_record({"w": np.full(3, value, np.float32)}), CONFIG: config}), 5, kind)


def receive(spool: Path, *messages: Message) -> list[Any]:
    context = Context(1, 5, {"partition-id": 4, "spool": str(spool)}, RecordDict(), {})
    return [capture(each, context, lambda m, _: m) for each in messages]


def test_train_carries_the_model_of_the_round_before_evaluate_that_of_this_round(tmp_path: Path) -> None:
    sent = [
        message("train", 1, 0.0),
        message("evaluate", 1, 1.0),
        message("train", 2, 1.0),
        message("evaluate", 2, 2.0),
    ]
    assert receive(tmp_path, *sent) == sent  # passed on untouched
    assert list(captured(tmp_path)) == [0, 1, 2]
    assert len(read_jsonl(tmp_path / "receipts.jsonl")) == 4
    assert load_weights(tmp_path / "round-0002.safetensors")[0]["w"].tolist() == [2.0, 2.0, 2.0]


def test_other_weights_for_a_known_round_are_kept_beside_the_first(tmp_path: Path) -> None:
    receive(tmp_path, message("evaluate", 1, 1.0), message("evaluate", 1, 5.0), message("evaluate", 1, 5.0))
    assert len(list(tmp_path.glob("round-0001*.safetensors"))) == 2


def test_a_full_disk_does_not_keep_the_client_from_answering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    sent = message("train", 1, 0.0)
    assert receive(tmp_path, sent) == [sent]
    assert "could not be captured" in caplog.text
    assert not list(tmp_path.glob("*.safetensors"))


def test_queries_are_not_captured(tmp_path: Path) -> None:
    receive(tmp_path, Message(RecordDict(), 5, "query.who"))
    assert not (tmp_path / "receipts.jsonl").exists()


def test_schedules(tmp_path: Path) -> None:
    receive(tmp_path, *(message("evaluate", number, float(number)) for number in range(1, 8)))

    def asked(**settings: Any) -> list[int]:
        return list(due(tmp_path, Attacker(**settings), NOTHING))

    assert asked(rounds="last") == [7]
    assert asked(rounds="every") == [1, 2, 3, 4, 5, 6, 7]
    assert asked(rounds="every", every_nth=3) == [3, 6, 7]
    assert asked(rounds=(2, 5)) == [2, 5]
    assert asked(rounds=(5, 2)) == [2, 5]
    with pytest.raises(StageError, match=r"\[9\].*received only"):
        asked(rounds=(2, 9))
    with pytest.raises(StageError, match="holds no capture"):
        due(tmp_path / "elsewhere", Attacker(), NOTHING)


def test_while_the_federation_runs_what_is_due_is_the_beginning_of_what_will_be(tmp_path: Path) -> None:
    schedules: list[dict[str, Any]] = [
        {"rounds": "every"}, {"rounds": "every", "every_nth": 3}, {"rounds": "last"}, {"rounds": (2, 5)},
    ]  # fmt: skip
    for number in range(1, 8):
        early = [list(due(tmp_path, Attacker(**schedule), NOTHING, over=False)) for schedule in schedules]
        receive(tmp_path, message("evaluate", number, float(number)))
        for schedule, rounds in zip(schedules, early, strict=True):
            if number == 7:
                assert list(due(tmp_path, Attacker(**schedule), NOTHING))[: len(rounds)] == rounds
    assert early == [[1, 2, 3, 4, 5, 6], [3, 6], [], [2, 5]]


def test_the_role_comes_from_the_nodes_own_configuration(tmp_path: Path) -> None:
    def node(**config: Any) -> Any:
        return node_of(Context(1, 5, {"partition-id": 4, "data-path": str(tmp_path), **config}, RecordDict(), {}))

    assert node().role == "honest"
    assert node(role="malicious").role == "malicious"
    with pytest.raises(ConfigError, match="role 'evil' is unknown"):
        node(role="evil")
    with pytest.raises(ConfigError, match="partition-id"):
        node_of(Context(1, 5, {}, RecordDict(), {"role": "malicious"}))
