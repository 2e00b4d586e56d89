"""The process that runs their federation: ``python -m pipeline.ownapp.federation PLAN``.

Their code gets a process of its own, because it may do anything to it. How it ended stands in ``done.json`` or
``failed.json`` beside the ledger.
"""

import os
import sys
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedinverse.errors import FedInverseError
from fedinverse.records import LedgerLine, read_lines, write_record
from fedinverse.theirs import their_traceback
from pipeline.ownapp.app import FlowerApp
from pipeline.ownapp.client import client_of
from pipeline.ownapp.grid import Broadcasts, OneProcessGrid, WatchedGrid, partitions_of, train_alone
from pipeline.ownapp.plan import ALONE, DONE, FAILED, Failed, Federated, Plan


def main(path: str) -> int:
    """Run the plan at ``path``; return the exit code."""
    plan = Plan.read(Path(path))
    failed = Failed("unknown", "the simulation ended before the ServerApp did")
    try:
        server = FlowerApp(Path(plan.app), "", plan.serverapp, plan.clientapp, {}).load("serverapp")
        if plan.engine == "local":
            _in_one_process(plan, path, server)
        else:
            _on_flower(plan, path, server)
        return 0
    except _NoClientsError as error:
        failed = Failed("clients", str(error))
    except FedInverseError as error:
        failed = Failed("load", str(error))
    except Exception as error:
        failed = Failed("server", their_traceback(error))
    write_record(Path(plan.directory) / FAILED, failed)
    return 1


class _NoClientsError(Exception):
    """No client could be started."""


def _serve(plan: Plan, server: Any, grid: Grid, context: Context) -> None:
    """Run their ServerApp on a watched grid; then let the attacker train alone, if that is asked for."""
    context.run_config = {**plan.run_config}
    partitions, reasons = partitions_of(grid, plan.clients)
    if len(partitions) < plan.clients:
        raise _NoClientsError(
            f"{plan.clients - len(partitions)} of {plan.clients} clients could not be started; {'; '.join(reasons)}"
        )
    node_of = {partition: node for node, partition in partitions.items()}
    broadcasts = Broadcasts(plan, partitions)
    hidden = {node_of[plan.victim]} if plan.hide_victim else set()
    watched = WatchedGrid(grid, broadcasts, hidden, plan)
    server(watched, context)
    directory = Path(plan.directory)
    (directory / ALONE).touch()
    alone = None
    if plan.own_shard and watched.answered:
        alone = train_alone(grid, node_of[plan.attacker], broadcasts, plan)
    ledger = read_lines(LedgerLine, directory / "ledger.jsonl")
    federated = Federated(
        rounds=len(broadcasts.trainings),
        records=tuple(sorted(broadcasts.passed_over)),
        sent_to=tuple(sorted({line.partition for line in ledger if line.partition is not None})),
        answered=tuple(sorted(partitions[node] for node in watched.answered)),
        failures={str(partitions.get(node, node)): reason for node, reason in watched.failures.items()},
        alone=alone,
    )
    write_record(directory / DONE, federated)


def _in_one_process(plan: Plan, path: str, server: Any) -> None:
    import torch

    from pipeline.engines.simulated import server_context

    torch.set_num_threads(1)
    _serve(plan, server, OneProcessGrid(plan, client_of(path)), server_context())


def _on_flower(plan: Plan, path: str, server: Any) -> None:
    from fedinverse.flower_compat import run_simulation
    from pipeline.engines.ray_processes import few_processes

    app = ServerApp()

    @app.main()
    def serve(grid: Grid, context: Context) -> None:
        _serve(plan, server, grid, context)

    with few_processes():
        run_simulation(
            server_app=app,
            client_app=client_of(path),
            num_supernodes=plan.clients,
            backend_config={
                "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
                "init_args": {
                    "num_cpus": plan.actors or os.cpu_count() or 1,
                    "include_dashboard": False,
                    "address": "local",
                },
            },
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
