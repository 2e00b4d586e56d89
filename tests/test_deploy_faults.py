"""Faults of real processes, in one federation over gRPC: what ends, hangs or fails costs a round its part, no more.

The story is told once, each test asks for one of its faults. Of four nodes, 0 is a straggler in round 1, 1 has no data,
2 is killed in round 1 and started again as a service manager would, 3 is malicious and cannot write its spool in round
1. In round 2 the SuperLink is killed, started again on its database, and the run submitted again.
"""

import os
import resource
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, merged
from deploy_federation import WORLD, Deployment, processes_of, until

from fedinverse.storage import load_weights, read_jsonl

# Bytes: below a capture of the model, above every file of the app, which each ClientApp process unpacks: the longest is
# the list of its files.
_SMALLER_THAN_A_MODEL = 100_000


@dataclass
class Story:
    """What happened, for the tests to look at."""

    directory: Path
    deployment: Deployment
    receipts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    status: str = ""
    server_log: str = ""


def limit_files(pids: list[int], size: int) -> None:
    """Let processes write no file beyond ``size`` bytes, as on a full disk; their children inherit it."""
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def strike_in_training(deployment: Deployment, straggler: int, victim: int) -> None:
    """Hold every ClientApp of one node from the first train message until round 1 is over; kill another node meanwhile.

    Whatever ran before round 0 was recorded had only been asked who it is.
    """
    asked: set[int] = set()
    stopped: set[int] = set()
    killed = False

    def begun() -> bool:
        begun = 0 in deployment.rounds()
        if not begun:
            asked.update(pid for number in (straggler, victim) for pid in deployment.client_apps(number))
        return begun

    def struck() -> bool:
        nonlocal killed
        for pid in set(deployment.client_apps(straggler)) - asked - stopped:
            os.kill(pid, signal.SIGSTOP)
            stopped.add(pid)
        if not killed and set(deployment.client_apps(victim)) - asked:
            deployment.strike(victim)
            killed = True
        return killed and bool(stopped)

    until("round 0 is recorded", begun)
    limit_files(deployment.running("SuperNode 03"), _SMALLER_THAN_A_MODEL)
    until("both train", struck)
    deployment.kill(f"SuperNode {victim:02d}")
    until("round 1 is recorded", lambda: struck() and 1 in deployment.rounds())
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)


def rejoin(deployment: Deployment, number: int) -> None:
    """Start a killed node until it is accepted, as a service manager does.

    Flower refuses it as long as it takes the killed one to be there: until two heartbeats are missing, 60 s.
    """
    log = deployment.fleet.directory / f"node-{number:02d}" / "supernode.log"
    accepted = log.read_text().count("SuperNode ID")
    deadline = time.monotonic() + 150

    def decided() -> bool:
        return log.read_text().count("SuperNode ID") > accepted or deployment.ended(number)

    deployment.start_node(number)
    until("it is accepted or refused", decided)
    while deployment.ended(number):
        assert "Failed to activate SuperNode" in log.read_text()
        assert time.monotonic() < deadline, "it is refused for more than 150 s"
        deployment.start_node(number)
        until("it is accepted or refused", decided)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    directory = tmp_path_factory.mktemp("faults")
    federation = {"rounds": 3, "fraction_train": 1.0, "fraction_evaluate": 0.0, "timeout": 45.0}
    table = merged(TINY, {"federation": federation, "engine": None, "model": {"width": 0.25}})
    with Deployment(directory, table) as deployment:
        record = Story(directory, deployment)
        spool = Path(str(deployment.nodes[3]["spool"])) / "receipts.jsonl"
        deployment.nodes[1]["data-path"] = str(directory / "nowhere")
        control = deployment.start()
        control.submit(deployment.server.path)
        strike_in_training(deployment, straggler=0, victim=2)
        record.receipts["after round 1"] = read_jsonl(spool)
        limit_files(deployment.running("SuperNode 03"), resource.RLIM_INFINITY)
        until("round 2 is captured", lambda: any(line["round"] == 2 for line in read_jsonl(spool)))
        deployment.kill("SuperLink")
        record.receipts["before the restart"] = read_jsonl(spool)
        deployment.start_superlink()
        rejoin(deployment, 2)
        run_id = control.submit(deployment.server.path)
        record.status = deployment.until_done(control, run_id)
        record.receipts["at the end"] = read_jsonl(spool)
        record.server_log = control.fetch_log(run_id).read_text()
    return record


def log_of(story: Story, number: int) -> str:
    return (story.deployment.fleet.directory / f"node-{number:02d}" / "supernode.log").read_text()


def test_the_run_resumes_with_the_same_round_after_the_superlink_was_killed(story: Story) -> None:
    assert story.status == "finished:completed"
    lines = read_jsonl(story.deployment.server.files.server.rounds(WORLD))
    assert [line["round"] for line in lines] == [0, 1, 2, 3]
    for line in lines:  # nothing is lost: every round's model is the recorded one
        assert (
            load_weights(story.deployment.server.files.server.checkpoint(WORLD, line["round"]))[1]["sha256"]
            == line["sha256"]
        )
    assert "Number of rounds: 2" in story.server_log  # 2 and 3


def test_a_straggler_past_the_timeout_costs_its_part_of_the_round(story: Story) -> None:
    assert 0 not in story.deployment.trained(1)
    assert 0 in story.deployment.trained(3)


def test_whoever_was_asked_and_gave_no_update_is_named_with_the_reason(story: Story) -> None:
    ledger = story.deployment.server.files.server.ledger(WORLD)
    reports = {(line["round"], line["partition"]): line for line in read_jsonl(ledger.with_name("clients.jsonl"))}
    assert reports.keys() == {(line["round"], line["partition"]) for line in read_jsonl(ledger)}
    assert reports[1, 0]["error"] == "no reply within 45 s"
    assert "error" in reports[1, 2]


def test_a_client_that_fails_is_named_and_the_federation_goes_on(story: Story) -> None:
    trained = [partition for number in range(1, 4) for partition in story.deployment.trained(number)]
    assert 1 not in trained
    assert "nowhere: no readable images.npy and labels.npy" in log_of(story, 1)
    assert "nowhere: no readable images.npy and labels.npy" in story.server_log


def test_a_killed_node_rejoins(story: Story) -> None:
    assert 2 not in story.deployment.trained(1)
    assert 2 in story.deployment.trained(3)


def test_a_full_disk_at_the_attacker_loses_its_capture_and_nothing_else(story: Story) -> None:
    assert 3 in story.deployment.trained(1)  # it answered
    assert "a train message could not be captured: OSError: [Errno 27] File too large" in log_of(story, 3)
    assert story.receipts["after round 1"] == []
    assert {line["round"] for line in story.receipts["at the end"]} == {2, 3}


def test_a_round_sent_again_is_captured_once(story: Story) -> None:
    sent = [line for line in read_jsonl(story.deployment.server.files.server.ledger(WORLD)) if line["partition"] == 3]
    again = [line for line in sent if line["round"] == 2]
    assert len(again) == 2
    assert again[0] == again[1]
    before, after = (
        [line for line in story.receipts[when] if line["round"] == 2] for when in ("before the restart", "at the end")
    )
    assert before == after
    assert len(after) == 1
    assert after[0]["sha256"] == again[0]["sha256"]


def test_nothing_is_left_behind(story: Story) -> None:
    assert processes_of(story.directory) == []
