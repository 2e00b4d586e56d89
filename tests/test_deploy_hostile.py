"""One hostile node of three over gRPC and TLS: refused by name in every round, the model as without it."""

import os
from pathlib import Path
from typing import Any

import hostile_node
import pytest
from conftest import TINY, merged
from deploy_federation import WAIT, WORLD, Deployment, until
from hostile_replies import Change
from strategy_rounds import hashes
from test_hostile_clients import FAILS, hostile

from fedinverse.run import prepare
from fedinverse.storage import read_jsonl, write_json
from pipeline.engines import Engine, run_federation

KINDS = [hostile_node.UNDECODABLE, "header says 1 PB", "num-examples a list"]
HOSTILE = 2


def table() -> dict[str, Any]:
    federation = {"rounds": len(KINDS), "fraction_train": 1.0, "fraction_evaluate": 0.0, "timeout": WAIT}
    population = {"clients": 3, "malicious": 0}
    changes = {"population": population, "federation": federation, "engine": None, "attacks": None}
    return merged(TINY, changes)


def test_a_hostile_node_over_grpc_costs_no_more_than_its_own_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Deployment(tmp_path, table()) as deployment:
        deployment.start_superlink()
        control = deployment.fleet.connect(register=range(3))
        write_json(deployment.server.files.nodes, control.nodes)
        for number in range(3):
            with monkeypatch.context() as patch:
                if number == HOSTILE:
                    hostile_node.prepare(patch, tmp_path / "hostile", KINDS)
                deployment.start_node(number)
        assert hostile_node.KINDS not in os.environ
        run_id = control.submit(deployment.server.path)
        until("the last round is recorded", lambda: len(KINDS) in deployment.rounds(), 3 * WAIT)
        assert deployment.until_done(control, run_id) == "finished:completed"
        lines = read_jsonl(deployment.server.files.server.client_reports(WORLD))
        deployed = hashes(deployment.server)
    errors = {line["round"]: line["error"] for line in lines if "error" in line}
    assert {line["partition"] for line in lines if "error" in line} == {HOSTILE}
    assert "its reply cannot be decoded" in errors[1]
    assert "longer than its header says" in errors[2]
    assert "no whole number" in errors[3]

    fails: list[Change] = [FAILS] * len(KINDS)
    hostile(monkeypatch, {"train": fails})
    without = prepare(tmp_path / "without", table())
    run_federation(without, WORLD, Engine(kind="local"))
    assert hashes(without) == deployed
