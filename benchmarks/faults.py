"""Faults: kill, crash, fill the disk, move the clock; every run must end with the hashes of an undisturbed one.

    python benchmarks/faults.py [--kinds kill actor worker disk clock] [--kills 10] [--first 0] [--seed 0] [--json PATH]

The run is a small form of the quick start: all stages, both worlds, one attack, two target rounds.

- ``kill``: SIGKILL of all its processes at five seeded moments of as many starts of one run, then ``--resume`` to the
  end; every third run on the ``ray`` engine, the others on ``local``;
- ``actor``: SIGKILL of one Ray actor after every round; the run must end by itself;
- ``worker``: SIGKILL of the attacker's worker while it inverts; the run must say so, and ``--resume`` end it;
- ``disk``: a small tmpfs (needs root) that is filled up while the federation runs; the run must say so and end with
  exit code 2, and ``--resume`` end it once there is room;
- ``clock``: the system clock, as Python tells it, jumps a day ahead or back while the federation runs.

Compared are the global model of every round in both worlds, every reconstruction and the score table.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from fedinverse.house import CONFIGS
from fedinverse.layout import WORLDS
from fedinverse.run import Run
from fedinverse.storage import file_sha256, read_jsonl, read_metadata, write_json
from fedinverse.tables import Table, laid_over, read_table

ROOT = Path(__file__).resolve().parent.parent
PATIENCE, MOMENTS = 300.0, 5

SMALL: Table = {
    "data": {"private_limit": 600, "public_limit": 300},
    "population": {"clients": 6, "victim_classes": [0, 1]},
    "model": {"width": 0.1},
    "federation": {"rounds": 4},
    "engine": {"kind": "local", "actors": 2},
    "attacker": {"rounds": [2, 4], "restarts": 2, "processes": 1},
    "attacks": {"gmi": {"iterations": 40, "prior": {"width": 0.1, "steps": 20, "critic_steps": 1, "batch_size": 8}}},
    "audit": {"evaluator": {"width": 0.1, "epochs": 2}},
}

_CLOCK = """
import os, time
_true, _at, _by = time.time, float(os.environ["FAULT_AT"]), float(os.environ["FAULT_BY"])
time.time = lambda: _true() + (_by if _true() > _at else 0.0)
"""


@dataclass(frozen=True)
class Place:
    """Where one disturbed run lives.

    Attributes:
        directory: holds its config, its cache and its runs.
    """

    directory: Path

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.directory / "runs" / "small"

    def start(self, engine: str, environment: dict[str, str] | None = None) -> "subprocess.Popen[str]":
        """Start the run, or resume it, in a session of its own."""
        command = [sys.executable, "fedinverse_sim.py", str(self.directory / "small.toml"), "--resume"]
        command += ["--out", str(self.directory / "runs"), "--set", f"engine.kind={engine}"]
        variables = os.environ | {"OMP_NUM_THREADS": "1", "FEDINVERSE_CACHE": str(self.directory / "cache")}
        return subprocess.Popen(
            command, cwd=ROOT, env=variables | (environment or {}), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def finish(self, engine: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
        """Start the run and wait for its end; return exit code and complaint."""
        return _ended(self.start(engine, environment))


def _ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    try:
        _, complaint = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        _kill_all(process)
        return -1, f"no end within {PATIENCE:g} s"
    return process.returncode, complaint


def _kill_all(process: "subprocess.Popen[str]") -> None:
    """SIGKILL the run's session: the program and what it started, Ray included."""
    for pid in _processes(lambda status, command: _session(status) == process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _processes(wanted: Callable[[str, str], bool]) -> list[int]:
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if wanted((entry / "stat").read_text(), command):
                    pids.append(int(entry.name))
    return pids


def _session(status: str) -> int:
    return int(status.rsplit(")", 1)[1].split()[3])


def results(path: Path) -> dict[str, str]:
    """Return a hash of everything that must not depend on what happened on the way."""
    run = Run(path)
    sums = {
        f"{world} {line.round}": line.sha256
        for world in WORLDS
        for line in sorted(run.recorded_rounds(world), key=lambda line: line.round)
    }
    for inversion in sorted(run.files.attacker.inversions.rglob("*.safetensors")):
        sums[str(inversion.relative_to(run.files.attacker.inversions))] = read_metadata(inversion)["sha256"]
    sums["scores"] = file_sha256(run.files.auditor.root / "scores.csv")
    return sums


class Trial:
    """The undisturbed run, and a fresh place for every disturbed one."""

    def __init__(self, scratch: Path, seed: int) -> None:
        self._scratch, self.seed = scratch, seed
        self._table = laid_over(read_table(CONFIGS / "quickstart.toml"), SMALL | {"name": "small"})
        whole = self.place("whole")
        start = time.perf_counter()
        code, complaint = whole.finish("local")
        self.seconds = time.perf_counter() - start
        if code:
            raise SystemExit(f"the undisturbed run failed: {complaint}")
        self.expected = results(whole.run)

    def place(self, name: str, directory: Path | None = None) -> Place:
        """Return a place with the decoded data but without any prior."""
        place = Place(directory or self._scratch / name)
        place.directory.mkdir(exist_ok=True)
        (place.directory / "small.toml").write_text(tomli_w.dumps(self._table))
        data = self._scratch / "whole" / "cache" / "data"
        if data.exists() and name != "whole":
            shutil.copytree(data, place.directory / "cache" / "data")
        return place

    def verdict(self, place: Place, engine: str) -> str:
        """Resume the run, compare, tidy up; return ``same`` or what is wrong."""
        code, complaint = place.finish(engine)
        if code:
            return f"the resumed run ended with {code}: {complaint[-300:]}"
        return self.compared(place)

    def compared(self, place: Place) -> str:
        """Compare a finished run; return ``same`` or what differs."""
        sums = results(place.run)
        differing = [key for key in self.expected.keys() | sums.keys() if self.expected.get(key) != sums.get(key)]
        shutil.rmtree(place.directory, ignore_errors=True)
        return f"differs: {', '.join(sorted(differing)[:4])}" if differing else "same"


def kill(trial: Trial, number: int) -> tuple[str, str]:
    """SIGKILL at seeded shares of the undisturbed run's time; return where that was, and the verdict.

    A run that ends before its moment comes is compared too; the next moment finds a new one.
    """
    chance = random.Random(f"{trial.seed}/kill/{number}")
    engine = "ray" if number % 3 == 0 else "local"
    place, stages = trial.place(f"kill-{number}"), list[str]()
    while len(stages) < MOMENTS:
        process = place.start(engine)
        with suppress(subprocess.TimeoutExpired):
            process.wait(chance.random() * trial.seconds)
        if process.poll() is None:
            _kill_all(process)
            stages.append(_stage(place.run))
            continue
        said = trial.verdict(place, engine)
        if said != "same":
            return f"{engine}, killed {', '.join(stages)}", said
        place = trial.place(f"kill-{number}-{len(stages)}")
    return f"{engine}, killed {', '.join(stages)}", trial.verdict(place, engine)


def _stage(run: Path) -> str:
    if (run / "report.html").exists():
        return "reporting"
    marks = {
        "audit": "auditing",
        "attacker/inversions": "inverting",
        "federation": "federating",
        "config.json": "prepared",
    }
    return next((what for name, what in marks.items() if (run / name).exists()), "starting")


def actor(trial: Trial, number: int) -> tuple[str, str]:
    """SIGKILL one Ray actor after every round of both worlds."""
    place = trial.place(f"actor-{number}")
    process = place.start("ray")
    chance = random.Random(f"{trial.seed}/actor/{number}")
    killed, seen = 0, 0
    while process.poll() is None:
        rounds = sum(len(read_jsonl(Run(place.run).files.server.rounds(world))) for world in WORLDS)
        mine = _processes(lambda status, command: "ray::ClientActor" in command and _session(status) == process.pid)
        if rounds > seen and mine:
            seen = rounds
            with suppress(ProcessLookupError):
                os.kill(chance.choice(mine), signal.SIGKILL)
                killed += 1
        time.sleep(0.02)
    code, complaint = _ended(process)
    said = f"{killed} actors killed"
    if code:
        return said, f"ended with {code}: {complaint[-300:]}"
    return said, trial.compared(place) if killed else "no actor was found to be killed"


def worker(trial: Trial, number: int) -> tuple[str, str]:
    """SIGKILL the attacker's worker while it inverts."""
    place = trial.place(f"worker-{number}")
    process = place.start("local")
    killed = False
    while process.poll() is None and not killed:
        shares = _processes(
            lambda status, command: (
                "attacker.worker" in command and "--child" in command and _session(status) == process.pid
            )
        )
        if shares and any((place.run / "attacker" / "inversions").rglob("about.json")):
            os.kill(shares[0], signal.SIGKILL)
            killed = True
        time.sleep(0.01)
    code, complaint = _ended(process)
    said = f"exit code {code}"
    if killed and (code != 2 or "worker ended" not in complaint):
        return said, f"the run did not say what happened: {complaint[-300:]}"
    return said, trial.verdict(place, "local") if killed else "the worker was done before it could be killed"


def disk(trial: Trial, number: int) -> tuple[str, str]:
    """Fill the disk of the run while the federation runs."""
    mount = Path(tempfile.mkdtemp(prefix="faults-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if mounted.returncode:
        mount.rmdir()
        return "not run", f"a tmpfs needs root: {mounted.stderr.decode().strip()}"
    try:
        place = trial.place(f"disk-{number}", mount / "place")
        process = place.start("local")
        wanted = 1 + random.Random(f"{trial.seed}/disk/{number}").randrange(6)
        while process.poll() is None and len(list(place.run.rglob("round-*.safetensors"))) < wanted:
            time.sleep(0.002)
        ballast = mount / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        code, complaint = _ended(process)
        ballast.unlink()
        said = f"full after {wanted} files, exit code {code}"
        if code != 2 or "No space left" not in complaint or "Traceback" in complaint:
            return said, f"the run did not say what happened: {complaint[-300:]}"
        return said, trial.verdict(place, "local")
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=False)
        mount.rmdir()


def clock(trial: Trial, number: int) -> tuple[str, str]:
    """Let the clock jump a day, ahead or back in turn, in all processes at one moment."""
    place = trial.place(f"clock-{number}")
    (place.directory / "clock").mkdir()
    (place.directory / "clock" / "sitecustomize.py").write_text(_CLOCK)
    engine, by = ("ray" if number % 4 > 1 else "local"), (86400 if number % 2 else -86400)
    at = time.time() + random.Random(f"{trial.seed}/clock/{number}").uniform(0.1, 0.6) * trial.seconds
    paths = os.pathsep.join(filter(None, [str(place.directory / "clock"), os.environ.get("PYTHONPATH")]))
    code, complaint = place.finish(engine, {"PYTHONPATH": paths, "FAULT_AT": str(at), "FAULT_BY": str(by)})
    said = f"{engine}, {by:+d} s"
    return said, f"ended with {code}: {complaint[-300:]}" if code else trial.compared(place)


KINDS: dict[str, Callable[[Trial, int], tuple[str, str]]] = {
    "kill": kill, "actor": actor, "worker": worker, "disk": disk, "clock": clock,
}  # fmt: skip


def main() -> None:
    """Disturb, print one line per trial, write JSON if asked; exit 1 if any run ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--kills", type=int, default=10, help=f"trials of 'kill', {MOMENTS} moments each")
    parser.add_argument("--others", type=int, default=4, help="trials of every other kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="faults-") as directory:
        trial = Trial(Path(directory), chosen.seed)
        print(f"undisturbed: {trial.seconds:.1f} s, {len(trial.expected)} hashes", flush=True)
        for kind in chosen.kinds:
            count = chosen.kills if kind == "kill" else chosen.others
            for number in range(chosen.first, chosen.first + count):
                start = time.perf_counter()
                said, verdict = KINDS[kind](trial, number)
                seconds = round(time.perf_counter() - start, 1)
                rows.append({"kind": kind, "number": number, "what": said, "verdict": verdict, "seconds": seconds})
                print(f"{kind} {number}: {said}: {verdict} ({seconds} s)", flush=True)
                if chosen.json:
                    write_json(chosen.json, {"seed": chosen.seed, "measured": rows})
    wrong = [row for row in rows if row["verdict"] != "same"]
    print(f"{len(rows)} trials, {len(rows) - len(wrong)} ended with the same hashes")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
