"""Scale of the ``ray`` engine: clients, model size, and the memory of an actor.

    python benchmarks/scale.py [--clients 10 100 1000] [--models lenet5 mcnn mcnn:4] [--rounds 5] [--json PATH]
    python benchmarks/scale.py --clients 1000 --models lenet5 --rounds 300      what grows with the rounds

Ten clients train in every round whatever the population, so that a round's work stays the same per image held: what
grows with the number of clients is overhead. Printed per cell: median seconds of a round, seconds per client message,
the size of the model, the largest resident memory of an actor and of the program (unique pages, in MB), and the KB that
a round adds to the records. From 20 rounds on also the median round and the most memory of the first and of the last
tenth of the rounds.
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
        text = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8")
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
        looks: list[tuple[float, int, int]] = []  # when, MB of the largest actor, MB of the program
        while program.poll() is None:
            actor = max([0, *map(private_memory, actors_of(program.pid))])
            looks.append((time.time(), actor, private_memory(program.pid)))
            time.sleep(0.2)
        if program.returncode:
            raise SystemExit(f"{model} with {clients} clients ended with {program.returncode}")
        server = run.files.server
        # The last round is stored at once, the others when a core is idle: its end says nothing of the time between.
        files = [server.checkpoint("with_victim", number) for number in range(1, rounds)]
        ends = [path.stat().st_mtime for path in files]
        times = [after - before for before, after in pairwise(ends)]
        records = server.ledger("with_victim").stat().st_size + server.rounds("with_victim").stat().st_size
        row = {
            "model MB": files[0].stat().st_size / 1e6,
            "round s": statistics.median(times),
            "per message s": statistics.median(times) / SAMPLED,
            "actor MB": max(look[1] for look in looks),
            "program MB": max(look[2] for look in looks),
            "records KB per round": records / rounds / 1e3,
        }
        tenth = rounds // 10
        if tenth < 2:
            return row
        for name, part, start, end in (
            ("first tenth", times[:tenth], ends[0], ends[tenth]),
            ("last tenth", times[-tenth:], ends[-tenth - 1], ends[-1]),
        ):
            during = [look for look in looks if start <= look[0] <= end]
            row |= {
                f"{name}: round s": statistics.median(part),
                f"{name}: actor MB": max((look[1] for look in during), default=0),
                f"{name}: program MB": max((look[2] for look in during), default=0),
            }
        return row


def main() -> None:
    """Measure, print a line per cell, write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", nargs="+", type=int, default=[10, 100, 1000])
    parser.add_argument("--models", nargs="+", default=["lenet5", "mcnn", "mcnn:4"], help="NAME or NAME:WIDTH")
    parser.add_argument("--rounds", type=int, default=5)
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
