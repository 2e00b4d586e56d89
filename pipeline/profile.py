"""Where a run's time went: seconds per stage, round and inversion, and the functions that took most of it.

``times.json`` is always kept. With ``--profile`` every stage of this process also runs under cProfile, and so do the
clients on the ``ray`` engine's actors and the attacker's workers, which leave their rows in ``profile/``;
``profile.json`` has all of them.
"""

import cProfile
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedinverse.errors import IntegrityError
from fedinverse.layout import RunFiles
from fedinverse.profiling import Row, added, hottest, rows_of
from fedinverse.run import Run
from fedinverse.storage import read_json, read_object, write_json
from fedinverse.words import plain
from pipeline.log import event
from pipeline.stages.inversions import finished
from report.console import say, table

SHOWN, KEPT = 5, 30
_ORDER = ("prepare", "federate", "canaries", "controls", "invert", "updates", "membership", "active", "audit", "report")
_REDONE = ("prepare", "report")  # done anew at every resume: their last time is theirs, not the sum
_ROLES = ("clients", "attacker")


def stored_times(path: Path) -> dict[str, float]:
    """Return seconds by stage, in the order of the stages; empty without the file.

    Raises:
        IntegrityError: it holds anything else; the message names it.
    """
    if not path.exists():
        return {}
    times = read_object(path)
    wrong = [key for key, value in times.items() if key not in _ORDER or type(value) not in (int, float)]
    if wrong:
        raise IntegrityError(f"{path}: '{plain(wrong[0], 60)}' is no stage with its seconds; delete the file")
    return {stage: float(times[stage]) for stage in _ORDER if stage in times}


class Stages:
    """Times the stages of a run, over resumes, and profiles them if asked."""

    def __init__(self, directory: Path, *, profile: bool) -> None:
        self._file = RunFiles(directory).times
        self._times: dict[str, float] = {}
        self._hot: dict[str, list[Row]] = {}
        self.processes = directory / "profile" if profile else None
        """Where the processes of the roles leave their rows until they are added up; None: they are not profiled."""
        if self.processes is not None:
            shutil.rmtree(self.processes, ignore_errors=True)  # of a run that was killed

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the body's time as stage ``name``, also if it is stopped: what it finished is kept."""
        event("stage start", name, stage=name)
        start = time.perf_counter()
        try:
            if self.processes is not None:
                with cProfile.Profile() as profiler:
                    yield
                self._hot[name] = hottest(rows_of(profiler), KEPT)
            else:
                yield
        except (KeyboardInterrupt, SystemExit):
            self._count(name, start)
            raise
        event("stage end", name, stage=name, seconds=self._count(name, start))

    def _count(self, name: str, start: float) -> float:
        """Add the seconds since ``start`` to those of stage ``name``; return them."""
        seconds = round(time.perf_counter() - start, 2)
        stored = stored_times(self._file)
        before = 0.0 if name in _REDONE else stored.get(name, 0.0)
        stored[name] = round(before + seconds, 2)
        self._times = {stage: stored[stage] for stage in _ORDER if stage in stored}
        write_json(self._file, stored)
        return seconds

    @property
    def times(self) -> dict[str, float]:
        """Seconds per stage so far."""
        return dict(self._times)

    def summary(self) -> str:
        """Return all stages' seconds on one line."""
        parts = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in self._times.items())
        return f"[dim]{parts}; {sum(self._times.values()):.0f} s in all[/dim]"

    def write_profile(self, run: Run) -> None:
        """Write ``profile.json`` and show it, if the stages were profiled."""
        if self.processes is None:
            return
        profile = {
            "stages": [
                {"stage": name, "seconds": seconds, "functions": self._hot.get(name, [])}
                for name, seconds in self._times.items()
            ],
            "roles": {role: _role(self.processes, role) for role in _ROLES},
            "rounds": {world: round_seconds(run, world) for world in run.worlds},
            "inversions": _inversions(run),
        }
        write_json(run.files.profile, profile)
        shutil.rmtree(self.processes, ignore_errors=True)
        _show(profile)
        say("Profile", f"{run.path / 'profile.json'}")


def round_seconds(run: Run, world: Any) -> dict[int, float]:
    """Return the seconds of every round whose checkpoint and predecessor are there: the time between the two files."""
    ends = {
        line.round: path.stat().st_mtime_ns
        for line in run.recorded_rounds(world)
        if (path := run.files.server.checkpoint(world, line.round)).exists()
    }
    return {number: round((ends[number] - ends[number - 1]) / 1e9, 3) for number in ends if number - 1 in ends}


def _inversions(run: Run) -> list[dict[str, Any]]:
    if not run.table.get("attacks"):
        return []
    rows = []
    for each in finished(run):
        about = each.inversion.about
        rows.append(
            {
                "attack": each.attack,
                "target": each.target.weights,
                "prior_seconds": about.prior_seconds,
                "seconds": round(about.cost.seconds, 2),
                "steps": about.cost.steps,
            }
        )
    return rows


def _role(directory: Path, role: str) -> dict[str, Any]:
    """Return how many processes of ``role`` left rows, the seconds they were busy together, and their functions."""
    processes = [read_json(path) for path in sorted(directory.glob(f"{role}-*.json"))]
    rows = added(processes)
    busy = round(sum(row["own_seconds"] for row in rows), 2)
    return {"processes": len(processes), "seconds": busy, "functions": hottest(rows, KEPT)}


def _show(profile: dict[str, Any]) -> None:
    rows = []
    for stage in profile["stages"]:
        rows.append([stage["stage"], f"{stage['seconds']:.1f}", ""])
        rows += _lines(stage["functions"])
    for role, totals in profile["roles"].items():
        if totals["processes"]:
            rows.append([f"{role}, in {totals['processes']} processes", f"{totals['seconds']:.1f}", ""])
            rows += _lines(totals["functions"])
    for world, rounds in profile["rounds"].items():
        if rounds:
            seconds = sorted(rounds.values())
            rows.append([f"rounds, {world}: median", f"{seconds[len(seconds) // 2]:.2f}", str(len(seconds))])
    for inversion in profile["inversions"]:
        rows.append(
            [f"{inversion['attack']} on {inversion['target']}", f"{inversion['seconds']:.1f}", str(inversion["steps"])]
        )
    table("Where the time went", ["", "seconds", "calls, rounds, steps"], rows)


def _lines(functions: list[Row]) -> list[list[str]]:
    return [
        [f"  {row['function']}  {row['where']}", f"{row['own_seconds']:.1f}", str(row["calls"])]
        for row in functions[:SHOWN]
    ]
