"""Rounds of a strategy without a federation, and what a small simulated one leaves behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fedinverse.arrays import from_record, to_record
from fedinverse.messages import ARRAYS, CLIENT, CONFIG, METRICS
from fedinverse.run import Run, prepare
from fedinverse.storage import load_weights
from pipeline.engines import run_federation
from pipeline.engines.local import LocalGrid
from pipeline.experiment import resolved
from strategies import Aggregation, Ledger, Participation, Selection, make_strategy

Load = Callable[..., Any]
SHAPE = (8, 16)
MODEL = {
    "w": np.linspace(-1, 1, 128, dtype=np.float32).reshape(SHAPE),
    "running_var": np.full(3, 0.1, np.float32),
    "num_batches_tracked": np.array(7, np.int64),
}
BUFFERS = ("running_var", "num_batches_tracked")
CLIENTS = 8
SECURE = {"secure_aggregation": {"enabled": True}}


def federated(experiment: Any, path: Path) -> Run:
    run = prepare(path, resolved(experiment))
    run_federation(run, "with_victim", experiment.engine)
    return run


def hashes(run: Run) -> list[str]:
    return [line.sha256 for line in run.recorded_rounds("with_victim")]


def model_after(run: Run, server_round: int) -> dict[str, Any]:
    return load_weights(run.files.server.checkpoint("with_victim", server_round))[0]


def assert_equal_up_to_rounding(secure: Run, plain: Run) -> None:
    """After one round: at most four clients, each off by one step of 16 / 2^22, over the sum of their weights."""
    expected, actual = model_after(plain, 1), model_after(secure, 1)
    for name, array in expected.items():
        if np.issubdtype(array.dtype, np.floating):
            np.testing.assert_allclose(actual[name], array, rtol=1e-6, atol=4 * 16 / 2**22)


class Nodes(LocalGrid):
    """A grid of node ids alone."""

    def __init__(self) -> None:
        self.contexts = dict.fromkeys(range(1, CLIENTS + 1))  # type: ignore[misc]


def strategy_of(path: Path, **settings: Any) -> Any:
    chosen: Any = make_strategy(Aggregation(fraction_train=1.0, **settings), CLIENTS, 0, "config")
    partitions = {partition + 1: partition for partition in range(CLIENTS)}
    chosen.begin(Selection(Participation(fraction_train=1.0), 0, partitions), Ledger(path / "l.jsonl"), 0, BUFFERS)
    return chosen


def update(client: int, server_round: int) -> dict[str, Any]:
    """A client's weights: the model and a step of its own."""
    random = np.random.default_rng([client, server_round])
    return {
        "w": MODEL["w"] + random.normal(0, 0.3, SHAPE).astype(np.float32),
        "running_var": np.full(3, 0.1 + 0.01 * client, np.float32),
        "num_batches_tracked": np.array(7 + client, np.int64),
    }


def examples(client: int) -> int:
    return 10 * (client + 1)


def one_round(strategy: Any, server_round: int = 1, model: dict[str, Any] | None = None) -> dict[str, Any]:
    config = ConfigRecord({"seed": 0})
    sent = list(strategy.configure_train(server_round, to_record(model or MODEL), config, Nodes()))
    assert all(from_record(message.content[ARRAYS]).keys() == MODEL.keys() for message in sent)
    replies = []
    for client, message in enumerate(sent):
        metrics = MetricRecord({"num-examples": examples(client), "train-loss": 1.0, "train-accuracy": 0.5})
        if message.content[CONFIG].get("clipping") == "adaptive":
            metrics["norm_bit"] = client % 2
        report = ConfigRecord({"partition": client, "defence": "none"})
        content = {ARRAYS: to_record(update(client, server_round)), METRICS: metrics, CLIENT: report}
        replies.append(Message(RecordDict(content), reply_to=message))
    arrays, _ = strategy.aggregate_train(server_round, replies)
    return from_record(arrays)


def mean(name: str, weights: list[float], server_round: int = 1) -> Any:
    return np.average([update(client, server_round)[name] for client in range(CLIENTS)], 0, weights)


WEIGHTED, EQUAL = [float(examples(client)) for client in range(CLIENTS)], [1.0] * CLIENTS
