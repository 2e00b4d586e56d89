"""Flower's strategies as used here: what goes past them, what they remember, what is refused."""

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from strategy_rounds import (
    CLIENTS,
    EQUAL,
    MODEL,
    SECURE,
    WEIGHTED,
    Load,
    Nodes,
    federated,
    hashes,
    mean,
    model_after,
    one_round,
    strategy_of,
    update,
)

from fedinverse.arrays import from_record, to_record
from fedinverse.errors import ConfigError, IntegrityError
from fedinverse.messages import ARRAYS, CLIENT, METRICS
from strategies import load_state_dict, state_dict, strategy_names

WIDE = {"one": np.zeros((2, 3), np.float32), "other": np.full(3, 5, np.float32)}

# ------------------------------------------------------------------ averages and buffers


@pytest.mark.parametrize(("averaging", "weights"), [("weighted", WEIGHTED), ("unweighted", EQUAL)])
def test_weighted_and_unweighted_averages(averaging: str, weights: list[float], tmp_path: Path) -> None:
    result = one_round(strategy_of(tmp_path, averaging=averaging))
    for name in ("w", "running_var"):
        np.testing.assert_allclose(result[name], mean(name, weights), rtol=1e-5)
    assert result["num_batches_tracked"] == np.rint(mean("num_batches_tracked", weights))


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedadagrad", "fedyogi"])
def test_server_optimisers_do_not_touch_buffers(name: str, tmp_path: Path) -> None:
    options = {"server_learning_rate": 0.5, "server_momentum": 0.9} if name == "fedavgm" else {}
    result = one_round(strategy_of(tmp_path, strategy=name, options=options))
    np.testing.assert_allclose(result["running_var"], mean("running_var", WEIGHTED), rtol=1e-5)
    assert result["num_batches_tracked"].dtype == np.int64
    assert not np.allclose(result["w"], mean("w", WEIGHTED), rtol=1e-3)
    assert list(result) == list(MODEL)


def test_the_order_in_which_a_client_sends_its_arrays_does_not_matter(tmp_path: Path) -> None:
    """FedAvgM and the clipping wrappers pair arrays by position."""

    def result(*, turned: bool) -> dict[str, Any]:
        strategy = strategy_of(tmp_path, strategy="fedavgm", options={"server_momentum": 0.9}, averaging="unweighted")
        sent = list(strategy.configure_train(1, to_record(WIDE), ConfigRecord(), Nodes()))
        replies = []
        for message in sent:
            arrays = {name: array + 1 for name, array in WIDE.items()}
            turned_round = dict(reversed(arrays.items())) if turned else arrays
            metrics = MetricRecord({"num-examples": 1, "train-loss": 1.0, "train-accuracy": 0.5})
            client = ConfigRecord({"partition": message.metadata.dst_node_id - 1})
            content = {ARRAYS: to_record(turned_round), METRICS: metrics, CLIENT: client}
            replies.append(Message(RecordDict(content), reply_to=message))
        return from_record(strategy.aggregate_train(1, replies)[0])

    for name, array in result(turned=False).items():
        np.testing.assert_array_equal(result(turned=True)[name], array)


def test_what_clients_sent_is_gone_with_its_round(tmp_path: Path) -> None:
    """Although Flower holds the replies, its views of records hold themselves, and nobody looks for such circles."""
    strategy = strategy_of(tmp_path)
    replies, arrays = [], []
    for message in strategy.configure_train(1, to_record(WIDE), ConfigRecord(), Nodes()):
        metrics = MetricRecord({"num-examples": 1, "train-loss": 1.0, "train-accuracy": 0.5})
        client = ConfigRecord({"partition": message.metadata.dst_node_id - 1})
        sent = {name: array + 1 for name, array in WIDE.items()}
        arrays += [weakref.ref(array) for array in sent.values()]
        content = RecordDict({ARRAYS: to_record(sent), METRICS: metrics, CLIENT: client})
        replies.append(Message(content, reply_to=message))
    del sent, content
    assert len(replies) > 1
    gc.disable()
    try:
        strategy.read_early(replies[0])
        strategy.aggregate_train(1, replies)
        assert not any(array() is not None for array in arrays)
    finally:
        gc.enable()


def test_rules_that_pick_updates_see_float_buffers_but_no_step_counter(tmp_path: Path) -> None:
    """Krum picks the update nearest to the others: by weights, not by who took as many steps."""
    result = one_round(strategy_of(tmp_path, strategy="krum", options={"num_malicious_nodes": 1}))
    picked = [client for client in range(CLIENTS) if np.array_equal(result["w"], update(client, 1)["w"])]
    assert len(picked) == 1
    np.testing.assert_array_equal(result["running_var"], update(picked[0], 1)["running_var"])
    assert result["num_batches_tracked"] == np.rint(mean("num_batches_tracked", WEIGHTED))
    median = one_round(strategy_of(tmp_path, strategy="fedmedian"))
    np.testing.assert_allclose(median["running_var"], np.full(3, 0.135), rtol=1e-5)


@pytest.mark.parametrize("name", strategy_names())
def test_every_strategy_learns_from_its_clients(name: str, tmp_path: Path) -> None:
    options = {"fedprox": {"proximal_mu": 0.1}, "multikrum": {"num_nodes_to_select": 3}}.get(name, {})
    result = one_round(strategy_of(tmp_path, strategy=name, options=options))
    assert {key: (array.shape, array.dtype) for key, array in result.items()} == {
        key: (array.shape, array.dtype) for key, array in MODEL.items()
    }
    assert not np.array_equal(result["w"], MODEL["w"])


# ------------------------------------------------------------------ what is remembered


MOMENTA = [
    {"strategy": "fedavgm", "options": {"server_momentum": 0.9}},
    {"strategy": "fedadam", "options": {"eta": 0.02}},
    {"strategy": "fedyogi", "options": {"eta": 0.02}},
    {"strategy": "fedadagrad", "options": {"eta": 0.02}},
    {"averaging": "unweighted", "privacy": {"kind": "client_adaptive", "noise_multiplier": 0.3}},
]


@pytest.mark.parametrize("settings", MOMENTA, ids=str)
def test_a_strategy_that_is_reminded_goes_on_as_if_it_had_not_stopped(settings: Any, tmp_path: Path) -> None:
    straight, before, after = (strategy_of(tmp_path, **settings) for _ in range(3))
    first = one_round(straight, 1)
    expected = one_round(straight, 2, first)
    again = one_round(before, 1)
    state = state_dict(before)
    assert state
    load_state_dict(after, state)
    for name, array in one_round(after, 2, again).items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize(
    "federation",
    [
        {"strategy": "fedadam", "options": {"eta": 0.02}},
        {"strategy": "fedavgm", "options": {"server_momentum": 0.5}},
        {"averaging": "unweighted", "privacy": {"kind": "server_adaptive", "noise_multiplier": 0.01}},
    ],
    ids=str,
)
@pytest.mark.parametrize("torn", ["the state is written", "the checkpoint is written"])
def test_a_killed_run_with_momenta_resumes_to_the_same_hashes(
    federation: Any, torn: str, tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from server import checkpoints

    whole = federated(tiny(federation=federation), tmp_path / "whole")
    save, count = checkpoints.save_weights, 0

    def kill(path: Path, *rest: Any) -> str:
        nonlocal count
        sha = save(path, *rest)
        count += path.stem == ("strategy-0002" if torn == "the state is written" else "round-0002")
        if count:
            raise KeyboardInterrupt
        return sha

    monkeypatch.setattr(checkpoints, "save_weights", kill)
    with pytest.raises(KeyboardInterrupt):
        federated(tiny(federation=federation), tmp_path / "killed")
    monkeypatch.undo()
    resumed = federated(tiny(federation=federation), tmp_path / "killed")
    assert hashes(resumed) == hashes(whole)
    assert len(hashes(whole)) == 4
    kept = resumed.files.server.checkpoint("with_victim", 3).parent.glob("strategy-*")
    assert [path.name for path in kept] == ["strategy-0003.safetensors"]


def test_a_lost_momentum_stops_the_resume_by_name(tiny: Load, tmp_path: Path) -> None:
    changes = {"federation": {"strategy": "fedadam", "rounds": 1}}
    run = federated(tiny(**changes), tmp_path / "run")
    run.files.server.checkpoint("with_victim", 1).with_name("strategy-0001.safetensors").unlink()
    with pytest.raises(IntegrityError, match=r"strategy-0001.*missing"):
        federated(tiny(**changes), tmp_path / "run")


# ------------------------------------------------------------------ FedProx


def test_the_proximal_term_reaches_the_clients_and_holds_them_back(tiny: Load, tmp_path: Path) -> None:
    def distance(mu: float) -> float:
        federation = {"strategy": "fedprox", "options": {"proximal_mu": mu}, "rounds": 1, "fraction_train": 1.0}
        run = federated(tiny(federation=federation), tmp_path / f"mu{mu:g}")
        before, after = model_after(run, 0), model_after(run, 1)
        return sum(float(np.square(after[name] - before[name]).sum()) for name in before if "weight" in name)

    assert distance(10.0) < 0.5 * distance(0.0)


def test_the_proximal_term_is_the_gradient_of_half_mu_times_the_squared_distance() -> None:
    import torch

    from clients.settings import Training
    from clients.training import _optimizer

    layer = torch.nn.Linear(3, 2)
    optimizer = _optimizer(layer, Training(lr=0.1, momentum=0.0), 4.0)
    start = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 1.0
    layer.weight.grad, layer.bias.grad = torch.zeros_like(layer.weight), torch.zeros_like(layer.bias)
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), start + 1.0 - 0.1 * 4.0)


# ------------------------------------------------------------------ what is refused before the run


@pytest.mark.parametrize(
    ("federation", "message"),
    [
        ({"strategy": "krum", "options": {"num_malicious_nodes": 1}}, r"'krum' needs 5 clients.*2 f \+ 3.*2 train"),
        ({"strategy": "multikrum", "fraction_train": 1.0, "options": {"num_nodes_to_select": 5}}, "at most 4"),
        ({"strategy": "bulyan", "options": {"num_malicious_nodes": 1}}, r"'bulyan' needs 7 clients.*4 f \+ 3"),
        ({"strategy": "fedmedian"}, "'fedmedian' needs 3"),
        ({"strategy": "fedtrimmedavg", "fraction_train": 1.0}, "needs 5 clients.*trims nobody"),
        ({"strategy": "fedtrimmedavg", "options": {"beta": 0.6}}, "`beta` must be in the range"),
        ({"strategy": "fedadam", "options": {"etta": 1.0}}, "'federation.options' does not suit strategy 'fedadam'"),
        ({"strategy": "fedavgg"}, "known: bulyan"),
        ({"privacy": {"kind": "server_fixed"}}, "averaging"),
        ({"privacy": {"kind": "server_fixed"}, "averaging": "unweighted", "strategy": "fedadam"}, "plain mean"),
        (
            {"privacy": {"kind": "client_adaptive", "noise_multiplier": 5.0}, "averaging": "unweighted"},
            "clipped_count_stddev",
        ),
        ({"privacy": {"kind": "server_fixd"}}, "privacy.kind"),
        ({**SECURE}, "needs 3 to 1024 clients in a round, 2 train"),
        ({**SECURE, "strategy": "krum", "fraction_train": 1.0}, "single updates"),
        (
            {**SECURE, "fraction_train": 1.0, "averaging": "unweighted", "privacy": {"kind": "server_fixed"}},
            "client_fixed",
        ),
        ({"secure_aggregation": {"enabled": True, "modulus_range": 1000}}, "power of two"),
    ],
)
def test_what_cannot_work_is_refused_before_the_run(federation: Any, message: str, tiny: Load) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(federation=federation)
