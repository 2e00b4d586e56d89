"""Stage 1: run the federation, or the rounds of it that are still to run."""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.progress import Progress

from fedinverse.errors import IntegrityError, StageError
from fedinverse.layout import WITHOUT_VICTIM, World, is_control
from fedinverse.run import Run
from fedinverse.storage import read_jsonl
from pipeline.engines import Engine, run_federation
from pipeline.log import event
from report.client_reports import what_clients_said
from report.console import console, progress_bar
from report.text import counted, percent
from server.settings import Federation

Told = Callable[[World, dict[str, Any]], None]


def federate(
    run: Run,
    world: World,
    engine: Engine,
    told: Told = lambda world, line: None,
    profiles: Path | None = None,
) -> None:
    """Bring the federation of ``world`` to its last round; ``told`` hears of every round's line as it is recorded.

    With ``profiles``, the engine's own processes leave there what they spent their time on.

    Raises:
        StageError: the engine ended before the last round.
    """
    rounds = run.section("federation", Federation).rounds
    done = _done(run, world)
    if done >= rounds:
        console.print(f"{title_of(world)}: done before, {counted(rounds, 'round')}")
        return
    start = f"resuming after round {done}" if done >= 0 else counted(rounds, "round")
    console.print(f"[b]{title_of(world)}[/b] on engine '{engine.kind}': {start}")
    with progress_bar() as bar, _Watch(run, world, bar, rounds, done, told):
        run_federation(run, world, engine, profiles)
    if _done(run, world) < rounds:
        raise StageError(f"the federation ended after round {_done(run, world)} of {rounds}; start again with --resume")
    for line in what_clients_said(run, world):
        console.print(line)


def title_of(world: World) -> str:
    """Return what to call the federation of ``world`` on the console."""
    if not is_control(world):
        return "Federating"
    further = world.removeprefix(WITHOUT_VICTIM).removeprefix("-")
    return f"Federating without the victim's images (control world{f' {further}, other draws' if further else ''})"


def is_federated(run: Run, world: World) -> bool:
    """Return whether the federation of ``world`` has reached its last round."""
    return _done(run, world) >= run.section("federation", Federation).rounds


def _done(run: Run, world: World) -> int:
    lines = run.recorded_rounds(world)
    return int(lines[-1]["round"]) if lines else -1


class _Watch:
    """Shows rounds as the server records them. It reads files, so it watches every engine alike."""

    def __init__(self, run: Run, world: World, bar: Progress, rounds: int, done: int, told: Told) -> None:
        self._told = told
        self._run, self._world, self._bar, self._shown = run, world, bar, done
        self._task = bar.add_task("starting clients", total=rounds, completed=max(done, 0))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._show()

    def _loop(self) -> None:
        while not self._stop.wait(0.3):
            self._show()

    def _show(self) -> None:
        with suppress(IntegrityError, OSError):  # a line being written right now
            for line in read_jsonl(self._run.files.server.rounds(self._world)):
                if line["round"] > self._shown:
                    self._shown = line["round"]
                    figures = {key: line[key] for key in ("accuracy", "victim-accuracy")}
                    event("round", f"round {self._shown}", world=self._world, round=self._shown, **figures)
                    self._told(self._world, line)
                    self._bar.update(self._task, completed=self._shown, description="rounds")
                    self._bar.console.print(
                        f"  round {self._shown:>3}   accuracy {percent(line['accuracy']):>7}"
                        f"   victim's classes {percent(line['victim-accuracy']):>7}"
                    )
