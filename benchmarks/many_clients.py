"""How long a round of many simulated clients takes and how much memory all its processes need together.

    python benchmarks/many_clients.py --clients 1000 --rounds 5 --directory many-clients

A tenth of the clients train, all of them evaluate, as Flower's default is; the network and the shards are tiny, so that
what is measured is the engine. Memory is the proportional set size of the engine's process, its actors and Ray's own
processes, looked at twice a second.
"""

import argparse
import json
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from fedinverse.run import prepare
from pipeline.deploy.commands import environment
from pipeline.deploy.processes import Processes
from pipeline.experiment import load_experiment, resolved

FEDERATE = """
import sys
from pathlib import Path
from fedinverse.run import Run
from pipeline.engines import Engine, run_federation
if __name__ == "__main__":
    run_federation(Run(Path(sys.argv[1])), "with_victim", Engine(kind=sys.argv[2]))
"""
ROOT = Path(__file__).resolve().parent.parent


def memory(pids: list[int]) -> float:
    """Return the proportional set size of processes in MB."""
    total = 0
    for pid in pids:
        with suppress(OSError):  # it ended meanwhile
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1000


def main() -> None:
    """Prepare, run, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engine", default="ray", choices=["ray", "local"])
    parser.add_argument("--directory", type=Path, required=True)
    chosen = parser.parse_args()
    settings = {
        "population.clients": chosen.clients,
        "federation.rounds": chosen.rounds,
        "federation.fraction_train": 0.1,
        "model.width": 0.1,
        "attacker.rounds": '"last"',
        "audit.without_victim": "false",
    }
    experiment = load_experiment("quickstart", [f"{key}={value}" for key, value in settings.items()])
    run = prepare(chosen.directory / f"{chosen.engine}-{chosen.clients}", resolved(experiment))
    peaks: dict[int, float] = {}
    finished: dict[int, float] = {}
    started = time.monotonic()
    with Processes() as processes:
        command = [sys.executable, "-c", FEDERATE, str(run.path.resolve()), chosen.engine]
        variables = environment() | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        owned = processes.start("the engine", command, variables, run.path / "engine.log")
        while owned.process.poll() is None:
            done = len(run.recorded_rounds("with_victim"))
            finished.setdefault(done, time.monotonic() - started)
            peaks[done] = max(peaks.get(done, 0.0), memory(processes.running()))
            time.sleep(0.5)
        if owned.process.returncode:
            raise SystemExit(owned.log.read_text())
    rounds = sorted(finished)
    times = [round(finished[after] - finished[before], 1) for before, after in pairwise(rounds)]
    print(
        json.dumps(
            {
                "clients": chosen.clients,
                "engine": chosen.engine,
                "seconds": round(time.monotonic() - started, 1),
                "seconds until untrained, then per round": times,
                "peak MB by rounds done": {key: round(value) for key, value in peaks.items()},
                "ledger lines": sum(1 for _ in run.files.server.ledger("with_victim").open()),
            }
        )
    )


if __name__ == "__main__":
    main()
