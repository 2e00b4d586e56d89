"""Central differential privacy, at the server and at the clients, and what privacy of any kind was spent."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from strategy_rounds import (
    CLIENTS,
    EQUAL,
    MODEL,
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

from clients.defences import make_defence
from fedinverse.accounting import composed_epsilon
from fedinverse.arrays import to_record
from fedinverse.messages import ARRAYS, CLIENT, METRICS, Update
from fedinverse.storage import read_json, read_jsonl
from report.participants import what_clients_said
from strategies.client_reports import ClientReports


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
    metrics = MetricRecord({"num-examples": 1, "train-loss": 1.0, "train-accuracy": 0.5})
    replies = [
        Message(
            RecordDict({ARRAYS: to_record(arrays), METRICS: metrics, CLIENT: ConfigRecord({"partition": client})}),
            reply_to=message,
        )
        for client, (message, arrays) in enumerate(zip(sent, (MODEL, update(0, 1)), strict=False))
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
    reports = {line["partition"]: line for line in read_jsonl(run.files.server.client_reports("with_victim"))}
    assert "defence 'bido_hsic' diverged" in reports[1]["error"]
    assert all("error" not in reports[partition] for partition in (0, 2, 3))
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
    directory = run.files.server.federation("with_victim")
    lines, summary = read_jsonl(directory / "clients.jsonl"), read_json(directory / "privacy.json")
    own_noise, average = what_clients_said(run, "with_victim")
    assert "spent by 2 clients by their own noise" in own_noise
    assert "spent by 4 clients by noise on the average" in average
    for partition in range(4):
        mine = [line for line in lines if line["partition"] == partition]
        entry = summary[str(partition)]
        assert entry["rounds"] == len(mine)
        assert entry["central_epsilon"] == mine[-1]["central_epsilon"]
        assert entry["central_epsilon"] == pytest.approx(composed_epsilon([(1.5, 1.0, len(mine))], 1e-5))
        assert ("epsilon" in entry) == (partition in (0, 1))
        if "epsilon" in entry:
            steps = [(2.0, line["dp_sample_rate"], int(line["dp_steps"])) for line in mine]
            assert entry["epsilon"] == mine[-1]["epsilon"] == pytest.approx(composed_epsilon(steps, 1e-5))
            assert [line["epsilon"] for line in mine] == sorted(line["epsilon"] for line in mine)


def test_nothing_is_claimed_where_batch_norm_goes_along_without_noise(tiny: Load, tmp_path: Path) -> None:
    federation = {"averaging": "unweighted", "privacy": {"kind": "server_fixed"}, "rounds": 1}
    run = federated(tiny(federation=federation), tmp_path / "run")
    assert all("central_epsilon" not in line for line in read_jsonl(run.files.server.client_reports("with_victim")))
    assert not run.files.server.privacy("with_victim").exists()


def test_a_round_repeated_after_a_kill_is_spent_once(tmp_path: Path) -> None:
    defence: Any = make_defence("update_noise", {"noise_multiplier": 4.0}, "test")
    defence._covered = True
    report = {"defence": "update_noise", **defence.report()}
    for _ in range(2):
        ClientReports(tmp_path).note(1, {0: Update({}, 0.0, 1, {"num-examples": 1}, report)}, {})
    assert read_json(tmp_path / "privacy.json")["0"]["epsilon"] == pytest.approx(
        composed_epsilon([(2.0, 1.0, 1)], 1e-5)
    )
