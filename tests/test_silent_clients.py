"""Clients of whom no reply comes: each is named with the reason, in every round, and costs it no more than its part."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from flwr.server.superlink.linkstate.utils import create_message_error_unavailable_res_message
from strategy_rounds import SECURE, Load, assert_equal_up_to_rounding, federated, hashes

from fedinverse.run import Run
from fedinverse.storage import read_jsonl
from pipeline.engines.local import LocalGrid
from report.participants import clients_table, what_clients_said
from strategies import AnsweredGrid

Silence = Callable[[Message], bool]


def unavailable(message: Message) -> Message:
    """Return what a SuperLink answers, in its own name, for a node that is away."""
    return create_message_error_unavailable_res_message(message.metadata, "node_unavail")


class Away(LocalGrid):
    """Node 1 answers, the SuperLink speaks for node 2, node 3 is late."""

    def __init__(self) -> None:
        self._ids = iter(range(1, 100))  # type: ignore[assignment]

    def answer(self, messages: list[Message], timeout: float | None) -> list[Message]:
        first, second, _ = messages
        return [unavailable(second), Message(RecordDict(), reply_to=first)]


def test_every_message_has_one_reply_from_the_node_that_was_asked() -> None:
    replies = AnsweredGrid(Away()).send_and_receive(
        [Message(RecordDict(), node, "train") for node in (1, 2, 3)], timeout=45.0
    )
    assert [reply.metadata.src_node_id for reply in replies] == [1, 2, 3]
    assert not replies[0].has_error()
    assert "Node Unavailable" in replies[1].error.reason
    assert replies[2].error.reason == "no reply within 45 s"


def silenced(monkeypatch: pytest.MonkeyPatch, silent: Silence, *, spoken_for: bool) -> None:
    """Drop replies to train messages that are ``silent``; a SuperLink speaks for their nodes, or nobody does."""
    answer = LocalGrid.answer

    def lost(message: Message) -> bool:
        return message.metadata.message_type == "train" and silent(message)

    def fewer(self: LocalGrid, messages: list[Message], timeout: float | None) -> list[Message]:
        replies = answer(self, [message for message in messages if not lost(message)], timeout)
        return replies + [unavailable(message) for message in messages if spoken_for and lost(message)]

    monkeypatch.setattr(LocalGrid, "answer", fewer)


def errors_of(run: Run, server_round: int) -> dict[int, Any]:
    lines = read_jsonl(run.files.server.client_reports("with_victim"))
    return {line["partition"]: line.get("error") for line in lines if line["round"] == server_round}


@pytest.mark.parametrize("spoken_for", [False, True])
@pytest.mark.parametrize("federation", [{}, {"averaging": "unweighted", "privacy": {"kind": "client_fixed"}}], ids=str)
def test_a_round_in_which_nobody_answers_names_everyone_and_changes_nothing(
    federation: Any, spoken_for: bool, tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(message: Message) -> bool:
        return message.content["config"]["server-round"] == 2

    silenced(monkeypatch, silent, spoken_for=spoken_for)
    run = federated(tiny(federation={"fraction_train": 1.0, "timeout": 45.0, **federation}), tmp_path / "run")
    reason = "Node Unavailable" if spoken_for else "no reply within 45 s"
    assert errors_of(run, 1) == dict.fromkeys(range(4))
    assert set(errors_of(run, 2)) == set(range(4))
    assert all(reason in error for error in errors_of(run, 2).values())
    before, silent_round, after = hashes(run)[1:]
    assert before == silent_round != after
    said = what_clients_said(run, "with_victim")
    assert [line for line in said if "client 3 failed in round 2" in line and reason in line]
    table = clients_table(run, dict.fromkeys(range(4), "none"))
    assert [row[table.header.index("rounds trained")] for row in table.rows] == ["2"] * 4


@pytest.mark.parametrize("spoken_for", [False, True])
@pytest.mark.parametrize("stage", ["setup", "share_keys", "collect_masked_vectors"])
def test_a_client_that_falls_silent_is_left_out_of_the_masked_sum_and_named(
    stage: str, spoken_for: bool, tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(message: Message) -> bool:
        protocol = message.content.config_records.get("secaggplus_configs")
        return message.metadata.dst_node_id == 3 and (protocol is None or protocol["stage"] == stage)

    silenced(monkeypatch, silent, spoken_for=spoken_for)
    common = {"fraction_train": 1.0, "fraction_evaluate": 0.0, "rounds": 1, "timeout": 45.0}
    secure = federated(tiny(federation={**common, **SECURE}), tmp_path / "secure")
    errors = errors_of(secure, 1)
    assert [partition for partition in sorted(errors) if errors[partition] is None] == [0, 1, 3]
    assert ("Node Unavailable" if spoken_for else "no reply within 45 s") in errors[2]
    assert_equal_up_to_rounding(secure, federated(tiny(federation=common), tmp_path / "plain"))
