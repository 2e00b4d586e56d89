"""Update inversion: the others' mean update, its labels and images; several malicious clients who pool."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from attacker.capture import capture
from attacker.schedule import captured, due
from attacker.settings import Attacker
from attacker.updates.pairs import pairs
from attacker.updates.settings import Updates
from attacker.updates.update_inversion import others_update
from attacker.worker import Bench
from fedinverse.client_data import shard_of
from fedinverse.errors import IntegrityError, StageError
from fedinverse.layout import spools_of
from fedinverse.messages import ARRAYS, CONFIG, to_record
from fedinverse.run import prepare
from fedinverse.shard import Shard
from fedinverse.storage import load_weights
from pipeline.experiment import resolved
from pipeline.stages.invert import plan_of

NOTHING = Shard(torch.empty(0), torch.empty(0))


def message(kind: str, server_round: int, value: float, node: int = 5, width: float = 0.1) -> Message:
    config = ConfigRecord({"server-round": server_round, "model": "mcnn", "width": width, "classes": 10})
    weights = to_record({"w": np.full(3, value, np.float32)})
    return Message(RecordDict({ARRAYS: weights, CONFIG: config}), node, kind)


def receive(spool: Path, *messages: Message, reply: float = 9.0) -> None:
    context = Context(1, 5, {"partition-id": 4, "spool": str(spool)}, RecordDict(), {})
    back = RecordDict({ARRAYS: to_record({"w": np.full(3, reply, np.float32)})})
    for each in messages:
        capture(each, context, lambda received, _: Message(back, reply_to=received))


def test_the_mod_keeps_what_the_node_sends_back_of_train_messages_alone(tmp_path: Path) -> None:
    receive(tmp_path, message("train", 2, 1.0), message("evaluate", 2, 2.0))
    kept = list((tmp_path / "replies").iterdir())
    assert [path.name for path in kept] == ["round-0002-5.safetensors"]
    assert load_weights(kept[0])[0]["w"].tolist() == [9.0, 9.0, 9.0]
    (pair,) = pairs([tmp_path], Updates())
    assert (pair.round, pair.before.name, pair.after.name) == (2, "round-0001.safetensors", "round-0002.safetensors")
    assert pair.replies == (kept[0],)
    kept[0].unlink()  # as a spool of before replies were kept
    assert (pairs([tmp_path], Updates())[0].replies, pairs([tmp_path], Updates())[0].unkept) == ((), 1)


def test_malicious_clients_who_pool_see_a_round_that_any_of_them_saw(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    receive(one, message("evaluate", 1, 1.0), message("evaluate", 3, 3.0))
    receive(other, message("train", 3, 2.0, node=6))
    assert list(captured(one, other)) == [1, 2, 3]
    with pytest.raises(StageError, match="received only"):
        due(one, Attacker(rounds=(2,)), NOTHING)
    assert list(due(one, Attacker(rounds=(2,)), NOTHING, pooled=[other])) == [2]
    with pytest.raises(StageError, match="no two of consecutive rounds"):
        pairs([one], Updates())
    assert [(pair.round, len(pair.replies)) for pair in pairs([one, other], Updates(rounds="every"))] == [
        (2, 0),
        (3, 1),
    ]


def test_those_of_a_run_pool_spools_and_images(tiny: Callable[..., Any], tmp_path: Path) -> None:
    run = prepare(tmp_path / "run", resolved(tiny(population={"malicious": 2})))
    first, second = run.files.attacker.spool("with_victim"), run.files.attacker.accomplice_spool("with_victim", 3)
    receive(first, message("evaluate", 1, 1.0))
    receive(second, message("evaluate", 2, 2.0, node=6))
    assert spools_of(run.files.attacker, "with_victim") == (first, second)
    bench = Bench(plan_of(run))
    assert [job.weights.parent for job in bench.jobs()] == [second]  # the last round, which the first did not see
    assert len(bench.shard) == sum(len(shard_of(run, client, "with_victim")) for client in (2, 3))


def test_captures_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    one, other, wide = tmp_path / "one", tmp_path / "other", tmp_path / "wide"
    receive(one, message("evaluate", 1, 1.0), message("evaluate", 2, 2.0))
    receive(other, message("evaluate", 2, 7.0))
    with pytest.raises(IntegrityError, match=r"different models of round 2.*two federations"):
        pairs([one, other], Updates())
    with pytest.raises(StageError, match=r"asks for \[5\]"):
        pairs([one], Updates(rounds=(5,)))
    receive(wide, message("evaluate", 3, 3.0, width=0.2))
    with pytest.raises(IntegrityError, match=r"different networks \(width 0\.1 and 0\.2\)"):
        pairs([one, wide], Updates())
    with pytest.raises(StageError, match="none"):
        pairs([tmp_path / "empty"], Updates())


def test_own_replies_are_taken_off_the_average() -> None:
    start, replies, others = (torch.randn(n, 4, dtype=torch.float64) for n in (1, 2, 3))
    after = torch.cat([replies, others]).mean(0)
    found = others_update({"w": start[0]}, {"w": after}, [{"w": reply} for reply in replies], 1 / 5)
    torch.testing.assert_close(found["w"], others.mean(0) - start[0])
    with pytest.raises(StageError, match="leave nothing"):
        others_update({"w": start[0]}, {"w": after}, [{"w": reply} for reply in replies], 0.5)
