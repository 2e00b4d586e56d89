"""What a deployed attacker's spool makes of messages that come twice and of files that are damaged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from attacker.capture import capture
from fedinverse.arrays import to_record
from fedinverse.messages import ARRAYS, CONFIG
from fedinverse.storage import load_weights, read_jsonl


def message(kind: str, server_round: int, value: float, node: int = 5) -> Message:
    config = ConfigRecord({"server-round": server_round, "model": "mcnn", "width": 0.1, "classes": 10})
    weights = to_record({"w": np.full(3, value, np.float32)})
    return Message(RecordDict({ARRAYS: weights, CONFIG: config}), node, kind)


def receive(spool: Path, *messages: Message) -> list[Any]:
    context = Context(1, 5, {"partition-id": 4, "spool": str(spool)}, RecordDict(), {})
    return [capture(each, context, lambda m, _: m) for each in messages]


def test_what_is_delivered_twice_is_noted_once(tmp_path: Path) -> None:
    receive(tmp_path, message("train", 3, 1.0))
    noted = (tmp_path / "receipts.jsonl").read_bytes()
    receive(tmp_path, message("train", 3, 1.0), message("train", 3, 1.0))
    assert (tmp_path / "receipts.jsonl").read_bytes() == noted
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["round-0002.safetensors"]


def test_the_same_weights_in_another_message_are_noted_beside_the_first(tmp_path: Path) -> None:
    sent = [message("train", 3, 1.0), message("evaluate", 2, 1.0), message("train", 3, 1.0, node=6)]
    receive(tmp_path, *sent, *sent)
    lines = read_jsonl(tmp_path / "receipts.jsonl")
    assert [(line["round"], line["message-type"], line["node"]) for line in lines] == [
        (3, "train", "5"),
        (2, "evaluate", "5"),
        (3, "train", "6"),
    ]
    assert {line["file"] for line in lines} == {"round-0002.safetensors"}


@pytest.mark.parametrize("name", ["round-0002.safetensors", "receipts.jsonl"])
def test_a_damaged_spool_does_not_keep_the_client_from_answering(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / name).write_text("damaged\n")
    sent = [message("train", 3, 1.0), message("train", 4, 2.0)]
    assert receive(tmp_path, *sent) == sent
    assert "a train message could not be captured" in caplog.text
    assert load_weights(tmp_path / "round-0003.safetensors")[0]["w"].tolist() == [2.0, 2.0, 2.0]
