"""``capture``, ``record`` and ``shard``: what an app's author puts into an app of another make by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from fedinverse.errors import ConfigError, DataError
from fedinverse.flower import capture, record, shard
from fedinverse.storage import read_jsonl, read_metadata, save_array, weights_sha256

WEIGHTS = {"w": np.arange(4, dtype=np.float32)}


class Grid:
    """Two nodes, as a strategy asks for them."""

    def get_node_ids(self) -> list[int]:
        return [11, 12]


def node(**config: Any) -> Context:
    return Context(1, 11, config, RecordDict(), {})


def model() -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in WEIGHTS.items()})


def test_a_recorded_strategy_notes_every_model_it_sends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDINVERSE_LEDGER", str(tmp_path / "ledger.jsonl"))
    plain = FedAvg(fraction_train=1.0, fraction_evaluate=1.0, min_available_nodes=2)
    strategy = record(plain)
    assert strategy is plain
    for server_round in (1, 2):
        sent = strategy.configure_train(server_round, model(), ConfigRecord({"lr": 0.1}), Grid())  # type: ignore[arg-type]
        assert len(list(sent)) == 2
    strategy.configure_evaluate(2, model(), ConfigRecord(), Grid())  # type: ignore[arg-type]
    lines = read_jsonl(tmp_path / "ledger.jsonl")
    assert [(line["round"], line["message-type"]) for line in lines] == [(1, "train")] * 2 + [(2, "train")] * 2 + [
        (2, "evaluate")
    ] * 2
    assert {line["sha256"] for line in lines} == {weights_sha256(WEIGHTS)}
    assert sorted(line["node"] for line in lines) == ["11"] * 3 + ["12"] * 3


def test_what_is_captured_is_what_was_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mod does nothing on an honest node; on a malicious one it keeps the model and lets the app answer."""
    monkeypatch.setenv("FEDINVERSE_SPOOL", str(tmp_path / "spool"))
    sent = Message(RecordDict({"m": model(), "config": ConfigRecord({"server-round": 3})}), 11, "train")
    answer = Message(RecordDict({"metrics": MetricRecord({"loss": 1.0})}), reply_to=sent)
    mod = capture()
    honest = {"partition-id": 0, "num-partitions": 2}
    assert mod(sent, node(**honest), lambda *_: answer) is answer
    monkeypatch.setenv("FEDINVERSE_ATTACKER", "1")
    assert mod(sent, node(**honest), lambda *_: answer) is answer
    assert not (tmp_path / "spool").exists()
    for wanted, config in (("last", honest | {"partition-id": 1}), ("", honest | {"role": "malicious"})):
        monkeypatch.setenv("FEDINVERSE_ATTACKER", wanted)
        assert mod(sent, node(**config), lambda *_: answer) is answer
    (kept,) = (tmp_path / "spool").glob("*.safetensors")
    assert read_metadata(kept)["sha256"] == weights_sha256(WEIGHTS)


def test_a_node_reads_its_own_images(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no 'data-path'"):
        shard(node())
    with pytest.raises(DataError, match=r"no readable images\.npy"):
        shard(node(**{"data-path": str(tmp_path)}))
    save_array(tmp_path / "images.npy", np.full((3, 1, 8, 8), 7, np.uint8))
    save_array(tmp_path / "labels.npy", np.array([0, 1, 1]))
    read = shard(node(**{"data-path": str(tmp_path)}))
    assert read.images.shape == (3, 1, 8, 8)
    assert read.labels.tolist() == [0, 1, 1]
