"""Where a run's time went: seconds per stage, round and inversion, and the functions that took most of it.

``times.json`` is always kept. With ``--profile`` every stage of this process also runs under cProfile and
``profile.json`` is written beside it. Clients on Ray's actors and the attacker's workers are processes of their own:
their time shows per round and per inversion; to see inside a client, profile with ``engine.kind = "local"``.
"""

import cProfile
import pstats
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedinverse.run import WORLDS, Run
from fedinverse.storage import read_json, write_json
from pipeline.console import console, table
from pipeline.invert import inversions_of
from pipeline.log import event

SHOWN, KEPT = 5, 30
_ORDER = ("prepare", "federate", "invert", "audit", "report")
_ROOT = Path(__file__).resolve().parent.parent


class Stages:
    """Times the stages of a run, over resumes, and profiles them if asked."""

    def __init__(self, directory: Path, *, profile: bool) -> None:
        self._file, self._profile = directory / "times.json", profile
        self._times: dict[str, float] = {}
        self._hot: dict[str, list[dict[str, Any]]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the body's time as stage ``name`` when it is done."""
        event("stage start", name, stage=name)
        start = time.perf_counter()
        if self._profile:
            with cProfile.Profile() as profiler:
                yield
            self._hot[name] = _hottest(profiler)
        else:
            yield
        seconds = round(time.perf_counter() - start, 2)
        stored: dict[str, float] = read_json(self._file) if self._file.exists() else {}
        stored[name] = round(stored.get(name, 0.0) + seconds, 2)
        self._times = dict(sorted(stored.items(), key=lambda item: _ORDER.index(item[0])))
        write_json(self._file, stored)
        event("stage end", name, stage=name, seconds=seconds)

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
        if not self._profile:
            return
        found = {
            "stages": [
                {"stage": name, "seconds": seconds, "functions": self._hot.get(name, [])}
                for name, seconds in self._times.items()
            ],
            "rounds": {world: round_seconds(run, world) for world in WORLDS},
            "inversions": _inversions(run),
        }
        write_json(run.path / "profile.json", found)
        _show(found)
        console.print(f"[b]Profile[/b]  {run.path / 'profile.json'}", soft_wrap=True)


def round_seconds(run: Run, world: Any) -> dict[int, float]:
    """Return the seconds of every round whose checkpoint and predecessor are there: the time between the two files."""
    ends = {
        line["round"]: path.stat().st_mtime_ns
        for line in run.recorded_rounds(world)
        if (path := run.checkpoint(world, line["round"])).exists()
    }
    return {number: round((ends[number] - ends[number - 1]) / 1e9, 3) for number in ends if number - 1 in ends}


def _inversions(run: Run) -> list[dict[str, Any]]:
    if not run.table.get("attacks"):
        return []
    rows = []
    for (label, weights), inversion in inversions_of(run).items():
        about = inversion.about
        rows.append(
            {
                "attack": label,
                "target": str(weights.relative_to(run.path)),
                "prior_seconds": about["prior-seconds"],
                "seconds": round(about["cost"]["seconds"], 2),
                "steps": about["cost"]["steps"],
            }
        )
    return rows


def _hottest(profiler: cProfile.Profile) -> list[dict[str, Any]]:
    stats: dict[Any, Any] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    hottest = sorted(stats.items(), key=lambda item: item[1][2], reverse=True)[:KEPT]
    return [
        {
            "function": name,
            "where": f"{_short(file)}:{line}" if line else "built in",
            "calls": calls,
            "own_seconds": round(own, 3),
            "with_callees_seconds": round(whole, 3),
        }
        for (file, line, name), (_, calls, own, whole, _) in hottest
    ]


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(_ROOT)) if path.is_relative_to(_ROOT) else "/".join(path.parts[-3:])


def _show(found: dict[str, Any]) -> None:
    rows = []
    for stage in found["stages"]:
        rows.append([stage["stage"], f"{stage['seconds']:.1f}", ""])
        rows += [
            [f"  {entry['function']}  {entry['where']}", f"{entry['own_seconds']:.1f}", str(entry["calls"])]
            for entry in stage["functions"][:SHOWN]
        ]
    for world, rounds in found["rounds"].items():
        if rounds:
            seconds = sorted(rounds.values())
            rows.append([f"rounds, {world}: median", f"{seconds[len(seconds) // 2]:.2f}", str(len(seconds))])
    for made in found["inversions"]:
        rows.append([f"{made['attack']} on {made['target']}", f"{made['seconds']:.1f}", str(made["steps"])])
    table("Where the time went", ["", "seconds", "calls, rounds, steps"], rows)
