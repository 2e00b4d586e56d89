"""Secure aggregation and differential privacy over gRPC: two runs of one deployment, each held against its simulation.

A trigger in the SuperLink's database keeps what passes through it: all that the server's host can see of the clients.
Node 1 puts noise of its own on its updates (local privacy), node 2 is malicious.
"""

import io
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, merged
from deploy_federation import WAIT, WORLD, Deployment, processes_of, until
from flwr.app import Message
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from numpy.typing import NDArray

from fedinverse.arrays import from_record
from fedinverse.messages import ARRAYS
from fedinverse.run import Run, prepare
from fedinverse.storage import load_weights, read_json, read_jsonl
from pipeline.deploy.parties import server_run
from pipeline.engines import Engine, run_federation

ROUNDS = {"secure": 1, "private": 2}  # a round of secure aggregation takes as long as four: it has four stages
CLIENTS, MALICIOUS = 3, 2
BOUND, NOISE = 0.1, 0.5  # C and z of the central privacy
RUNS: dict[str, dict[str, Any]] = {
    "secure": {"federation": {"secure_aggregation": {"enabled": True}}},
    "private": {
        "model": {"name": "mcnn_gn"},
        "federation": {
            "averaging": "unweighted",
            "privacy": {"kind": "client_fixed", "clipping_norm": BOUND, "noise_multiplier": NOISE},
        },
    },
}


@dataclass
class Story:
    """What happened in the ``RUNS``, by their names, and what passed through the SuperLink."""

    directory: Path
    deployed: dict[str, Run]
    simulated: dict[str, Run]
    status: dict[str, str]
    receipts: list[dict[str, Any]]
    passed: dict[str, Message]

    def exchanged(self) -> list[tuple[Message, Message]]:
        """Return every train message with its reply."""
        replies = [message for message in self.passed.values() if message.metadata.reply_to_message_id]
        asked = [(self.passed[reply.metadata.reply_to_message_id], reply) for reply in replies]
        return [pair for pair in asked if pair[0].metadata.message_type == "train"]


def table(name: str) -> dict[str, Any]:
    rounds = {"rounds": ROUNDS[name], "fraction_train": 1.0, "fraction_evaluate": 0.0, "timeout": 120.0}
    common = {"population": {"clients": CLIENTS}, "federation": rounds, "engine": None}
    common["cohorts"] = [{"defence": "update_noise", "clients": [1]}]
    return merged(merged(TINY, common), RUNS[name])


def keep_what_passes(database: Path) -> None:
    """Have the SuperLink's database keep every object that is sent through it, also when it was delivered."""
    with closing(sqlite3.connect(database, timeout=30)) as link:
        link.executescript(
            "CREATE TABLE passed (object_id TEXT PRIMARY KEY, content BLOB);"
            "CREATE TRIGGER pass AFTER UPDATE OF content ON objects BEGIN "
            "INSERT OR IGNORE INTO passed VALUES (new.object_id, new.content); END;"
        )


def what_passed(database: Path) -> dict[str, Any]:
    """Return the messages by their ids."""
    with closing(sqlite3.connect(database, timeout=30)) as link:
        contents = dict(link.execute("SELECT object_id, content FROM passed"))
    return {
        name: inflate_object_from_contents(name, contents, keep_object_contents=True)
        for name, content in contents.items()
        if content.startswith(b"Message ")
    }


def recorded(server: Run, number: int) -> bool:
    return len(server.recorded_rounds(WORLD)) > number


def simulated(path: Path, name: str) -> Run:
    run = prepare(path, table(name))
    run_federation(run, WORLD, Engine(kind="local"))
    return run


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    directory = tmp_path_factory.mktemp("privacy")
    database = directory / "superlink.db"
    with Deployment(directory, table("secure")) as deployment:
        servers = {
            "secure": deployment.server,
            "private": server_run(prepare(directory / "private", table("private"))),
        }
        control = deployment.start()
        keep_what_passes(database)
        ids = {name: control.submit(server.path) for name, server in servers.items()}
        for name, server in servers.items():
            for number in range(ROUNDS[name] + 1):
                until(f"round {number} of {name}", partial(recorded, server, number), 2 * WAIT)
        status = {name: deployment.until_done(control, run_id) for name, run_id in ids.items()}
        receipts = read_jsonl(Path(str(deployment.nodes[MALICIOUS]["spool"])) / "receipts.jsonl")
    alike = {name: simulated(directory / f"simulated-{name}", name) for name in RUNS}
    return Story(directory, servers, alike, status, receipts, what_passed(database))


def model(run: Run, server_round: int) -> NDArray[Any]:
    return flat(load_weights(run.files.server.checkpoint(WORLD, server_round))[0])


def flat(weights: dict[str, NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate([weights[name].ravel().astype(np.float64) for name in sorted(weights)])


@pytest.mark.parametrize("name", RUNS)
def test_every_round_is_the_simulated_one_bit_for_bit(name: str, story: Story) -> None:
    assert story.status[name] == "finished:completed"
    over_grpc, here = (
        [line.sha256 for line in of[name].recorded_rounds(WORLD)] for of in (story.deployed, story.simulated)
    )
    assert len(set(over_grpc)) == ROUNDS[name] + 1
    assert over_grpc == here


@pytest.mark.parametrize("name", RUNS)
def test_clients_tell_and_spend_what_they_do_in_the_simulation(name: str, story: Story) -> None:
    over_grpc, here = (of[name].files.server.federation(WORLD) for of in (story.deployed, story.simulated))
    reports = read_jsonl(over_grpc / "clients.jsonl")
    assert reports == read_jsonl(here / "clients.jsonl")
    assert [(line["round"], line["partition"]) for line in reports if "num-examples" in line] == [
        (number, client) for number in range(1, ROUNDS[name] + 1) for client in range(CLIENTS)
    ]
    if name == "private":  # the other model has BatchNorm, and nothing is claimed
        spent = read_json(over_grpc / "privacy.json")
        assert spent == read_json(here / "privacy.json")
        assert all(spent[str(client)]["central_epsilon"] > 0 for client in range(CLIENTS))
        assert ["epsilon" in spent[str(client)] for client in range(CLIENTS)] == [False, True, False]


def test_nothing_but_masked_vectors_passes_through_the_superlink(story: Story) -> None:
    replies = [reply for asked, reply in story.exchanged() if "secaggplus_configs" in asked.content]
    assert len(replies) == 4 * CLIENTS * ROUNDS["secure"]  # stages
    assert all(not arrays for reply in replies for arrays in reply.content.array_records.values())
    protocol = [reply.content["secaggplus_configs"] for reply in replies]
    masked = [record["masked_params"] for record in protocol if "masked_params" in record]
    assert len(masked) == CLIENTS * ROUNDS["secure"]
    for arrays in masked:
        # Rounded weights are below 2^22 and lie close together; a sum of masks is spread evenly below 2^32.
        values = np.concatenate([np.load(io.BytesIO(array), allow_pickle=False).ravel() for array in arrays])
        shares = np.histogram(values, bins=8, range=(0, 2**32))[0] / len(values)
        np.testing.assert_allclose(shares, 1 / 8, atol=6 * np.sqrt(1 / 8 * 7 / 8 / len(values)))


def test_updates_are_clipped_before_they_pass_and_their_mean_is_noised(story: Story) -> None:
    sent: dict[int, list[NDArray[Any]]] = {}
    for asked, reply in story.exchanged():
        if reply.content.get(ARRAYS):
            before, after = (flat(from_record(message.content[ARRAYS])) for message in (asked, reply))
            assert float(np.linalg.norm(after - before)) == pytest.approx(BOUND, rel=1e-3)  # each was larger
            sent.setdefault(int(asked.content["config"]["server-round"]), []).append(after)
    assert sorted(sent) == list(range(1, ROUNDS["private"] + 1))
    for server_round, updates in sent.items():
        assert len(updates) == CLIENTS
        noise = model(story.deployed["private"], server_round) - np.mean(updates, 0)
        assert noise.std() == pytest.approx(NOISE * BOUND / CLIENTS, rel=0.1)


def test_the_malicious_node_captures_every_model_of_both_runs(story: Story) -> None:
    sent = {
        (line["round"], line["message-type"], line["sha256"])
        for run in story.deployed.values()
        for line in read_jsonl(run.files.server.ledger(WORLD))
        if line["partition"] == MALICIOUS
    }
    assert len(sent) == sum(ROUNDS.values())
    assert {(line["round"], line["message-type"], line["sha256"]) for line in story.receipts} == sent
    assert len(story.receipts) == len(sent)  # one per message, not one per stage


def test_nothing_is_left_behind(story: Story) -> None:
    assert processes_of(story.directory) == []
