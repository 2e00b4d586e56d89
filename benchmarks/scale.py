"""Scale of the ``ray`` engine: clients, model size, and the memory of an actor.

    python benchmarks/scale.py [--clients 10 100 1000] [--models lenet5 mcnn mcnn:4] [--rounds 4] [--json PATH]

Ten clients train in every round whatever the population, so that a round's work stays the same per image held: what
grows with the number of clients is overhead. Told per cell: median seconds of a round, seconds per client message, the
size of the model, and the largest resident memory of an actor and of the program (unique pages, in MB).
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from simulation import ENGINE, SAMPLED, fresh_run

from fedinverse.storage import write_json

ROOT = Path(__file__).resolve().parent.parent


def private_memory(process: int) -> int:
    """Return the megabytes that only ``process`` holds; 0 if it is gone."""
    with suppress(OSError):
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
        return sum(map(int, re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.MULTILINE))) // 1000
    return 0


def actors_of(session: int) -> list[int]:
    """Return the Ray actors of that session."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                mine = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[3]) == session
                if mine and b"ray::ClientActor" in (entry / "cmdline").read_bytes():
                    pids.append(int(entry.name))
    return pids


def measure(model: str, clients: int, rounds: int) -> dict[str, float]:
    """Run one federation and watch its memory."""
    with tempfile.TemporaryDirectory(prefix="scale-") as scratch:
        name, _, width = model.partition(":")
        run = fresh_run(Path(scratch) / "run", name, 32, rounds, clients, float(width or 1))
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", ENGINE, str(run.path), "ray"]
        program = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        actor, program_memory = 0, 0
        while program.poll() is None:
            program_memory = max(program_memory, private_memory(program.pid))
            actor = max([actor, *map(private_memory, actors_of(program.pid))])
            time.sleep(0.2)
        if program.returncode:
            raise SystemExit(f"{model} with {clients} clients ended with {program.returncode}")
        files = [run.files.server.checkpoint("with_victim", number) for number in range(1, rounds + 1)]
        median = statistics.median(after - before for before, after in pairwise(path.stat().st_mtime for path in files))
        return {
            "model MB": files[0].stat().st_size / 1e6,
            "round s": median,
            "per message s": median / SAMPLED,
            "actor MB": actor,
            "program MB": program_memory,
        }


def main() -> None:
    """Measure, print a line per cell, write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", nargs="+", type=int, default=[10, 100, 1000])
    parser.add_argument("--models", nargs="+", default=["lenet5", "mcnn", "mcnn:4"], help="NAME or NAME:WIDTH")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    measured = {}
    for model in chosen.models:
        for clients in chosen.clients:
            row = measured[f"{model} {clients}"] = measure(model, clients, chosen.rounds)
            figures = ", ".join(f"{name} {value:.3g}" for name, value in row.items())
            print(f"{model}, {clients} clients: {figures}; load {os.getloadavg()[0]:.1f}", flush=True)
            if chosen.json:
                write_json(chosen.json, {"rounds": chosen.rounds, "sampled": SAMPLED, "measured": measured})


if __name__ == "__main__":
    main()
