"""Flower's strategies as used here: what goes past them, what they remember, what is refused, what is hidden."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from clients.defences import make_defence
from fedinverse.accounting import composed_epsilon
from fedinverse.errors import ConfigError, IntegrityError
from fedinverse.flower import ARRAYS, CLIENT, CONFIG, METRICS, from_record, to_record
from fedinverse.run import Run, prepare
from fedinverse.storage import load_weights, read_json, read_jsonl
from pipeline.client_reports import what_clients_said
from pipeline.engines import run_federation
from pipeline.engines.local import LocalGrid
from pipeline.experiment import resolved
from strategies import Aggregation, Ledger, Participation, Selection, make_strategy, remembered, remind, strategy_names

Load = Callable[..., Any]
SHAPE = (8, 16)
MODEL = {
    "w": np.linspace(-1, 1, 128, dtype=np.float32).reshape(SHAPE),
    "running_var": np.full(3, 0.1, np.float32),
    "num_batches_tracked": np.array(7, np.int64),
}
WIDE = {"one": np.zeros((2, 3), np.float32), "other": np.full(3, 5, np.float32)}
BUFFERS = ("running_var", "num_batches_tracked")
CLIENTS = 8


def federated(experiment: Any, path: Path) -> Run:
    run = prepare(path, resolved(experiment))
    run_federation(run, "with_victim", experiment.engine)
    return run


def hashes(run: Run) -> list[str]:
    return [line["sha256"] for line in run.recorded_rounds("with_victim")]


def model_after(run: Run, server_round: int) -> dict[str, Any]:
    return load_weights(run.checkpoint("with_victim", server_round))[0]


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
        metrics = MetricRecord({"num-examples": examples(client), "train-loss": 1.0})
        if "clipping" in message.content[CONFIG]:
            metrics["norm_bit"] = client % 2
        told = ConfigRecord({"partition": client, "defence": "none"})
        content = {ARRAYS: to_record(update(client, server_round)), METRICS: metrics, CLIENT: told}
        replies.append(Message(RecordDict(content), reply_to=message))
    arrays, _ = strategy.aggregate_train(server_round, replies)
    return from_record(arrays)


def mean(name: str, weights: list[float], server_round: int = 1) -> Any:
    return np.average([update(client, server_round)[name] for client in range(CLIENTS)], 0, weights)


WEIGHTED, EQUAL = [float(examples(client)) for client in range(CLIENTS)], [1.0] * CLIENTS


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
            content = {ARRAYS: to_record(turned_round), METRICS: MetricRecord({"num-examples": 1})}
            replies.append(Message(RecordDict(content), reply_to=message))
        return from_record(strategy.aggregate_train(1, replies)[0])

    for name, array in result(turned=False).items():
        np.testing.assert_array_equal(result(turned=True)[name], array)


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
    state = remembered(before)
    assert state
    remind(after, state)
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
    kept = resumed.checkpoint("with_victim", 3).parent.glob("strategy-*")
    assert [path.name for path in kept] == ["strategy-0003.safetensors"]


def test_a_lost_momentum_stops_the_resume_by_name(tiny: Load, tmp_path: Path) -> None:
    changes = {"federation": {"strategy": "fedadam", "rounds": 1}}
    run = federated(tiny(**changes), tmp_path / "run")
    run.checkpoint("with_victim", 1).with_name("strategy-0001.safetensors").unlink()
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

    from clients.training import Training, _optimizer

    layer = torch.nn.Linear(3, 2)
    optimizer = _optimizer(layer, Training(lr=0.1, momentum=0.0), 4.0)
    start = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 1.0
    layer.weight.grad, layer.bias.grad = torch.zeros_like(layer.weight), torch.zeros_like(layer.bias)
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), start + 1.0 - 0.1 * 4.0)


# ------------------------------------------------------------------ central differential privacy


def private(path: Path, **settings: Any) -> Any:
    return strategy_of(path, averaging="unweighted", privacy=settings)


def test_clipping_at_the_server_bounds_every_update_and_no_buffer(tmp_path: Path) -> None:
    result = one_round(private(tmp_path, kind="server_fixed", noise_multiplier=0.0, clipping_norm=0.2))
    updates = [update(client, 1)["w"] - MODEL["w"] for client in range(CLIENTS)]
    clipped = [u * min(1.0, 0.2 / float(np.linalg.norm(u))) for u in updates]
    np.testing.assert_allclose(result["w"], MODEL["w"] + np.mean(clipped, 0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result["running_var"], mean("running_var", EQUAL), rtol=1e-5)


@pytest.mark.parametrize("kind", ["server_fixed", "client_fixed"])
def test_noise_has_its_size_spares_buffers_and_repeats(kind: str, tmp_path: Path) -> None:
    def noise(server_round: int) -> Any:
        quiet, loud = (
            one_round(private(tmp_path, kind=kind, noise_multiplier=z, clipping_norm=0.2), server_round)
            for z in (0.0, 1000.0)
        )
        np.testing.assert_array_equal(quiet["running_var"], loud["running_var"])
        return loud["w"] - quiet["w"]

    drawn = np.concatenate([noise(number).ravel() for number in (1, 2, 3)])
    assert drawn.std() == pytest.approx(1000 * 0.2 / CLIENTS, rel=0.15)
    np.testing.assert_array_equal(noise(1), noise(1))
    assert not np.array_equal(noise(1), noise(2))


def test_an_update_of_zero_is_refused_before_flower_divides_by_its_norm(tmp_path: Path) -> None:
    strategy = private(tmp_path, kind="server_fixed", noise_multiplier=0.0, clipping_norm=1e6)
    sent = list(strategy.configure_train(1, to_record(MODEL), ConfigRecord(), Nodes()))
    replies = [
        Message(RecordDict({ARRAYS: to_record(arrays), METRICS: MetricRecord({"num-examples": 1})}), reply_to=message)
        for message, arrays in zip(sent, (MODEL, update(0, 1)), strict=False)
    ]
    arrays, _ = strategy.aggregate_train(1, replies)
    np.testing.assert_allclose(arrays["w"].numpy(), update(0, 1)["w"], rtol=1e-5)


def test_the_adaptive_bound_moves_towards_its_quantile(tmp_path: Path) -> None:
    """Flower's own rule shrinks a bound that clips everyone; the paper's grows it."""
    for start, grows in ((1e-3, True), (1e3, False)):
        strategy = private(tmp_path, kind="server_adaptive", noise_multiplier=0.0, clipping_norm=start)
        one_round(strategy)
        assert strategy.clipping_norm == pytest.approx(start * np.exp(0.2 * (0.5 if grows else -0.5)), rel=1e-6)


def test_a_failed_client_costs_the_round_nothing_but_its_update(tiny: Load, tmp_path: Path) -> None:
    cohort = {"defence": "bido_hsic", "clients": [1], "settings": {"lambda_x": 1e38, "lambda_y": 1e38}}
    federation = {
        "rounds": 1,
        "fraction_train": 1.0,
        "averaging": "unweighted",
        "privacy": {"kind": "server_fixed", "noise_multiplier": 0.0},
    }
    run = federated(tiny(cohorts=[cohort], federation=federation), tmp_path / "run")
    told = {line["partition"]: line for line in read_jsonl(run.federation("with_victim") / "clients.jsonl")}
    assert "defence 'bido_hsic' diverged" in told[1]["error"]
    assert all("error" not in told[partition] for partition in (0, 2, 3))
    (said,) = what_clients_said(run, "with_victim")
    assert "client 1 failed in round 1" in said
    assert "diverged" in said
    assert hashes(run)[0] != hashes(run)[1]


@pytest.mark.parametrize("kind", ["client_fixed", "client_adaptive"])
def test_clients_clip_their_weights_and_send_buffers_whole(kind: str, tiny: Load, tmp_path: Path) -> None:
    federation = {
        "rounds": 1,
        "fraction_train": 1.0,
        "averaging": "unweighted",
        "privacy": {"kind": kind, "noise_multiplier": 0.0, "clipping_norm": 0.01},
    }
    plain = federated(tiny(federation={**federation, "privacy": {}}), tmp_path / "plain")
    run = federated(tiny(federation=federation), tmp_path / "clipped")
    before, after, free = model_after(run, 0), model_after(run, 1), model_after(plain, 1)
    buffers = [name for name in before if "running" in name]
    assert buffers
    for name in buffers:
        np.testing.assert_allclose(after[name], free[name], rtol=1e-6)
    moved = [
        np.square(after[name] - before[name]).sum() for name in before if name not in buffers and "num_" not in name
    ]
    assert 0 < float(np.sqrt(np.sum(moved))) <= 0.01 * (1 + 1e-4)


# ------------------------------------------------------------------ what is spent


def test_epsilons_add_up_over_the_rounds_a_client_took_part_in(tiny: Load, tmp_path: Path) -> None:
    changes = {
        "model": {"name": "mcnn_gn", "width": 0.1},
        "cohorts": [{"defence": "dp_sgd", "clients": [0, 1], "settings": {"noise_multiplier": 2.0}}],
        "federation": {
            "averaging": "unweighted",
            "privacy": {"kind": "client_fixed", "noise_multiplier": 1.5},
            "fraction_train": 0.75,
        },
    }
    run = federated(tiny(**changes), tmp_path / "run")
    directory = run.federation("with_victim")
    lines, summary = read_jsonl(directory / "clients.jsonl"), read_json(directory / "privacy.json")
    own_noise, average = what_clients_said(run, "with_victim")
    assert "spent by 2 clients by their own noise" in own_noise
    assert "spent by 4 clients by noise on the average" in average
    for partition in range(4):
        own = [line for line in lines if line["partition"] == partition]
        entry = summary[str(partition)]
        assert entry["rounds"] == len(own)
        assert entry["central_epsilon"] == own[-1]["central_epsilon"]
        assert entry["central_epsilon"] == pytest.approx(composed_epsilon([(1.5, 1.0, len(own))], 1e-5))
        assert ("epsilon" in entry) == (partition in (0, 1))
        if "epsilon" in entry:
            steps = [(2.0, line["dp_sample_rate"], int(line["dp_steps"])) for line in own]
            assert entry["epsilon"] == own[-1]["epsilon"] == pytest.approx(composed_epsilon(steps, 1e-5))
            assert [line["epsilon"] for line in own] == sorted(line["epsilon"] for line in own)


def test_nothing_is_claimed_where_batch_norm_goes_along_without_noise(tiny: Load, tmp_path: Path) -> None:
    federation = {"averaging": "unweighted", "privacy": {"kind": "server_fixed"}, "rounds": 1}
    run = federated(tiny(federation=federation), tmp_path / "run")
    assert all("central_epsilon" not in line for line in read_jsonl(run.federation("with_victim") / "clients.jsonl"))
    assert not (run.federation("with_victim") / "privacy.json").exists()


def test_a_round_repeated_after_a_kill_is_spent_once(tmp_path: Path) -> None:
    from strategies.client_reports import ClientReports

    defence: Any = make_defence("update_noise", {"noise_multiplier": 4.0}, "test")
    defence._covered = True
    told = ConfigRecord({"partition": 0, "defence": "update_noise", **defence.report()})
    content = RecordDict({CLIENT: told, METRICS: MetricRecord({"num-examples": 1})})
    reply = Message(content, reply_to=Message(RecordDict(), 1, "train"))
    for _ in range(2):
        ClientReports(tmp_path).note(1, [reply], {1: 0})
    assert read_json(tmp_path / "privacy.json")["0"]["epsilon"] == pytest.approx(
        composed_epsilon([(2.0, 1.0, 1)], 1e-5)
    )


# ------------------------------------------------------------------ secure aggregation

SECURE = {"secure_aggregation": {"enabled": True}}


def assert_equal_up_to_rounding(secure: Run, plain: Run) -> None:
    """After one round: at most four clients, each off by one step of 16 / 2^22, over the sum of their weights."""
    expected, found = model_after(plain, 1), model_after(secure, 1)
    for name, array in expected.items():
        if np.issubdtype(array.dtype, np.floating):
            np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=4 * 16 / 2**22)


@pytest.mark.parametrize("averaging", ["weighted", "unweighted"])
def test_secure_aggregation_gives_the_same_models_and_captures(averaging: str, tiny: Load, tmp_path: Path) -> None:
    """A negative control: what the malicious client is sent is the same up to rounding."""
    common = {"averaging": averaging, "fraction_train": 1.0}
    plain = federated(tiny(federation=common), tmp_path / "plain")
    secure = federated(tiny(federation={**common, **SECURE}), tmp_path / "secure")
    assert_equal_up_to_rounding(secure, plain)
    # Training makes more of the difference in every round; what the model can do stays.
    utility = [[line["accuracy"] for line in run.recorded_rounds("with_victim")] for run in (plain, secure)]
    np.testing.assert_allclose(utility[0], utility[1], atol=0.05)
    attacker = secure.population.attackers[0]
    ledger = read_jsonl(secure.ledger("with_victim"))
    sent = {(line["round"], line["message-type"], line["sha256"]) for line in ledger if line["partition"] == attacker}
    receipts = read_jsonl(secure.spool("with_victim") / "receipts.jsonl")
    assert {(line["round"], line["message-type"], line["sha256"]) for line in receipts} == sent
    assert len(receipts) == 6  # one per message, not one per stage


def test_the_server_is_shown_averages_only(tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Message] = []
    answer = LocalGrid.answer

    def watch(self: LocalGrid, messages: list[Message], timeout: float | None) -> list[Message]:
        replies = answer(self, messages, timeout)
        seen.extend(reply for reply in replies if reply.metadata.message_type == "train")
        return replies

    monkeypatch.setattr(LocalGrid, "answer", watch)
    federated(tiny(federation={**SECURE, "fraction_train": 1.0, "rounds": 1}), tmp_path / "run")
    assert len(seen) == 4 * 4  # stages x clients
    assert all(not record for reply in seen for record in reply.content.array_records.values())


@pytest.mark.parametrize("engine", [{"kind": "ray", "actors": 2}, {"kind": "flower", "actors": 2}])
def test_secure_aggregation_is_the_same_on_every_engine(engine: Any, tiny: Load, tmp_path: Path) -> None:
    federation = {**SECURE, "fraction_train": 1.0, "rounds": 2}
    here = federated(tiny(federation=federation), tmp_path / "local")
    there = federated(tiny(federation=federation, engine=engine), tmp_path / "there")
    assert hashes(here) == hashes(there)


def test_a_client_that_drops_out_is_left_out_of_the_sum(
    tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has given its key shares and fails in training: the others' shares take its masks off the sum."""
    import clients.app as client_app

    train = client_app.train

    def fail(model: Any, shard: Any, *rest: Any) -> Any:
        if len(shard) > 60:  # the victim
            raise RuntimeError("out of memory")
        return train(model, shard, *rest)

    monkeypatch.setattr(client_app, "train", fail)
    common = {"rounds": 1, "fraction_train": 1.0}
    plain = federated(tiny(federation=common), tmp_path / "plain")
    secure = federated(tiny(federation={**common, **SECURE}), tmp_path / "secure")
    assert_equal_up_to_rounding(secure, plain)
    told = {line["partition"]: line for line in read_jsonl(secure.federation("with_victim") / "clients.jsonl")}
    assert "out of memory" in told[0]["error"]


def test_too_few_to_unmask_leave_the_model_as_it_was(
    tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import clients.app as client_app

    def fail(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(client_app, "train", fail)
    run = federated(tiny(federation={**SECURE, "rounds": 1, "fraction_train": 1.0}), tmp_path / "run")
    assert hashes(run)[0] == hashes(run)[1]
    assert "too few clients" in caplog.text


def test_a_weight_beyond_the_range_is_refused_not_clipped(tiny: Load, tmp_path: Path) -> None:
    federation = {
        "secure_aggregation": {"enabled": True, "clipping_range": 1e-3},
        "rounds": 1,
        "fraction_train": 1.0,
    }
    run = federated(tiny(federation=federation), tmp_path / "run")
    assert hashes(run)[0] == hashes(run)[1]
    told = read_jsonl(run.federation("with_victim") / "clients.jsonl")
    assert all("clipping_range" in line["error"] for line in told)


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
