"""Secure aggregation: the same models up to rounding, on every engine, whoever drops out; and nothing but averages."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message
from strategy_rounds import SECURE, Load, assert_equal_up_to_rounding, federated, hashes

from attacker.settings import Updates
from attacker.updates.pairs import pairs
from attacker.updates.update_inversion import LocalTraining, as_tensors, label_shares, others_update
from fedinverse.client_data import shard_of
from fedinverse.run import Run
from fedinverse.storage import into_module, load_weights, read_jsonl
from pipeline.engines.local import LocalGrid


@pytest.mark.parametrize("averaging", ["weighted", "unweighted"])
def test_secure_aggregation_gives_the_same_models_and_captures(averaging: str, tiny: Load, tmp_path: Path) -> None:
    """A negative control: what the malicious client is sent is the same up to rounding."""
    common = {"averaging": averaging, "fraction_train": 1.0}
    plain = federated(tiny(federation=common), tmp_path / "plain")
    secure = federated(tiny(federation={**common, **SECURE}), tmp_path / "secure")
    assert_equal_up_to_rounding(secure, plain)
    assert_the_same_is_read_from_the_others_update(secure, plain)
    # Training makes more of the difference in every round; what the model can do stays.
    utility = [[line.accuracy for line in run.recorded_rounds("with_victim")] for run in (plain, secure)]
    np.testing.assert_allclose(utility[0], utility[1], atol=0.05)
    attacker = secure.population.attackers[0]
    ledger = read_jsonl(secure.files.server.ledger("with_victim"))
    sent = {(line["round"], line["message-type"], line["sha256"]) for line in ledger if line["partition"] == attacker}
    receipts = read_jsonl(secure.files.attacker.spool("with_victim") / "receipts.jsonl")
    assert {(line["round"], line["message-type"], line["sha256"]) for line in receipts} == sent
    assert len(receipts) == 6  # one per message, not one per stage


def assert_the_same_is_read_from_the_others_update(secure: Run, plain: Run) -> None:
    """Masks hide a client's update from the server; a participant subtracts its own reply from what all are sent."""
    updates, shares = [], []
    for run in (secure, plain):
        (pair,) = pairs([run.files.attacker.spool("with_victim")], Updates(rounds=(1,)))
        before, after, reply = (as_tensors(load_weights(path)[0]) for path in (pair.before, pair.after, *pair.replies))
        start, end = (run.initial_network() for _ in range(2))
        into_module(end, load_weights(pair.after)[0], str(pair.after))
        names = [name for name, _ in start.named_parameters()]
        parts = [{name: each[name] for name in names} for each in (before, after, reply)]
        updates.append(others_update(parts[0], parts[1], [parts[2]], 1 / 4))
        own = shard_of(run, run.population.attackers[0], "with_victim")
        shares.append(label_shares(start, end, updates[-1], LocalTraining(3, 0.05, 0.9), own))
    one, other = (torch.cat([value.flatten() for value in update.values()]) for update in updates)
    assert float((one - other).norm() / other.norm()) < 1e-2
    torch.testing.assert_close(shares[0], shares[1], atol=1e-2, rtol=0)


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
    reports = {line["partition"]: line for line in read_jsonl(secure.files.server.client_reports("with_victim"))}
    assert "out of memory" in reports[0]["error"]


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


def test_a_sum_of_two_is_never_unmasked(
    tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of three clients one drops out: from the sum of two the attacker could subtract its own update."""
    import clients.app as client_app

    train, calls = client_app.train, iter(range(100))

    def second_fails(*given: Any) -> Any:
        if next(calls) == 1:
            raise RuntimeError("out of memory")
        return train(*given)

    monkeypatch.setattr(client_app, "train", second_fails)
    secure = {"enabled": True, "reconstruction_threshold": 0.5}
    federation = {"rounds": 1, "fraction_train": 1.0, "secure_aggregation": secure}
    run = federated(tiny(federation=federation, population={"clients": 3}), tmp_path / "run")
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
    reports = read_jsonl(run.files.server.client_reports("with_victim"))
    assert all("clipping_range" in line["error"] for line in reports)
