"""Runs the points of a sweep, each in processes of its own, a given number side by side.

The sweep's directory holds one run directory per point, and

``points/NAME.toml``    the configuration the point is run with
``logs/NAME.log``       what it printed
``sweep.json``          the points, their run directories, and how each ended
"""

import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import tomli_w
from rich.progress import TaskID

from fedinverse.class_lists import names_numbered
from fedinverse.errors import ConfigError
from fedinverse.house import HOME
from fedinverse.layout import SWEEP, RunFiles, is_run
from fedinverse.program import command_of
from fedinverse.registry import search_path
from fedinverse.run import Run
from fedinverse.storage import atomic_write, content_sha256, read_json, read_object, write_json
from fedinverse.tables import Table, laid_over
from pipeline.deploy.processes import Owned, Processes
from pipeline.experiment import completed, resolved
from pipeline.runs import stage_of
from pipeline.sweep.plan import Plan, Point
from pipeline.sweep.reuse import adopt_inversions
from report.console import progress_bar, say
from report.text import counted

VERSION = 1
PAUSE = 0.5  # seconds between two looks at the processes


@dataclass(frozen=True)
class Outcome:
    """How a point ended.

    Attributes:
        reason: why it failed; empty: it is finished.
    """

    point: Point
    reason: str = ""


def is_finished(point: Point) -> bool:
    """Return whether the point's run is there, whole; the report is what a run writes last."""
    return RunFiles(point.path).report.exists()


def check_directory(plan: Plan, *, resume: bool) -> None:
    """Refuse run directories that hold something else, or that hold anything without ``resume``.

    Raises:
        ConfigError: names them and the way out.
    """
    started = [point for point in plan.points if is_run(point.path)]
    if started and not resume:
        raise ConfigError(
            f"{plan.path} holds {len(started)} of these points already; continue with --resume, or choose another "
            "--out or name"
        )
    others = [point for point in started if not _is_same(point)]
    if others:
        names = ", ".join(point.experiment.name for point in others)
        raise ConfigError(f"{plan.path} holds other configurations under {names}; choose another --out or name")


def _is_same(point: Point) -> bool:
    files = RunFiles(point.path)
    asked = laid_over(resolved(point.experiment), _share_of_stored(point))
    if files.pools.exists():  # the stored configuration has numbers for the classes that the sweep's file names
        asked = names_numbered(asked, Run(point.path).class_names)
    return content_sha256(completed(read_object(files.config))) == content_sha256(asked)


def run_points(plan: Plan, jobs: int) -> list[Outcome]:
    """Run what is not finished, ``jobs`` points side by side; a failed one does not keep the others from running."""
    waiting = [point for point in plan.points if not is_finished(point)]
    outcomes = {id(point): Outcome(point) for point in plan.points}
    say("Sweep", f"{plan.path}: {counted(len(plan.points), 'point')}, {len(waiting)} to run, {jobs} side by side")
    running: dict[TaskID, _Running] = {}
    _write_index(plan, outcomes.values())
    with Processes() as processes, progress_bar() as bar:
        everything = bar.add_task("points", total=len(waiting))
        while waiting or running:
            while waiting and len(running) < jobs:
                point = waiting.pop(0)
                adopt_inversions(point, filter(is_finished, plan.points))
                task = bar.add_task(point.experiment.name, total=None)
                running[task] = _start(point, plan.path, jobs, processes)
            time.sleep(PAUSE)
            for task, each in list(running.items()):
                bar.update(task, description=f"{each.point.experiment.name}: {stage_of(each.point.path)}")
                if each.owned.process.poll() is None:
                    continue
                outcome = each.outcome()
                outcomes[id(each.point)] = outcome
                _write_index(plan, outcomes.values())
                bar.console.print(f"  {each.point.experiment.name}: {outcome.reason or 'finished'}", markup=False)
                bar.remove_task(task)
                bar.advance(everything)
                del running[task]
    return list(outcomes.values())


@dataclass(frozen=True)
class _Running:
    point: Point
    owned: Owned
    printed: int  # bytes that earlier attempts wrote into the same log

    def outcome(self) -> Outcome:
        """Return how the ended process ended, with the reason it printed."""
        code = self.owned.process.returncode
        if code == 0 and is_finished(self.point):
            return Outcome(self.point)
        with self.owned.log.open("rb") as file:
            file.seek(self.printed)
            lines = file.read().decode(errors="replace").splitlines()
        errors = [line.removeprefix("error ").strip() for line in lines if line.startswith("error ")]
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
        return Outcome(self.point, "; ".join(errors) or f"ended with code {code}: {last}; see {self.owned.log}")


def _start(point: Point, directory: Path, jobs: int, processes: Processes) -> _Running:
    name = point.experiment.name
    config, log = directory / "points" / f"{name}.toml", directory / "logs" / f"{name}.log"
    atomic_write(config, tomli_w.dumps(laid_over(point.table, share_of(point, jobs))))
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join([str(HOME), search_path()])
    if jobs > 1:
        environment["OMP_NUM_THREADS"] = str(min(_cores(jobs), int(environment.get("OMP_NUM_THREADS", _cores(jobs)))))
    printed = log.stat().st_size if log.exists() else 0
    command = command_of("pipeline.sweep.point", str(config))
    return _Running(point, processes.start(name, command, environment, log), printed)


def share_of(point: Point, jobs: int) -> Table:
    """Return the settings that keep one of ``jobs`` points to its share of the cores, where its file leaves them open.

    A point that was started keeps the number of attacker processes that its stored configuration names.
    """
    engine, share = point.experiment.engine, _share_of_stored(point)
    if jobs == 1:
        return share
    if not point.experiment.attacker.processes and not share:
        share = {"attacker": {"processes": _cores(jobs)}}
    return share if engine.actors else {"engine": {"actors": _cores(jobs)}, **share}


def _cores(jobs: int) -> int:
    return max(1, (os.cpu_count() or 1) // jobs)


def _share_of_stored(point: Point) -> Table:
    stored = RunFiles(point.path).config
    if point.experiment.attacker.processes or not stored.exists():
        return {}
    return {"attacker": {"processes": read_json(stored).get("attacker", {}).get("processes", 0)}}


def _write_index(plan: Plan, outcomes: Iterable[Outcome]) -> None:
    write_json(
        plan.path / SWEEP,
        {
            "version": VERSION,
            "baseline": plan.baseline,
            "points": [
                {
                    "label": outcome.point.label,
                    "seed": outcome.point.experiment.seed,
                    "rank": asdict(outcome.point.rank) if outcome.point.rank else None,
                    "run": outcome.point.path.name,
                    "state": "finished" if is_finished(outcome.point) else "failed" if outcome.reason else "not run",
                    "reason": outcome.reason,
                }
                for outcome in outcomes
            ],
        },
    )
