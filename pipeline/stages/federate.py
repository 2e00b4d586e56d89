"""Stage 1: run the federations of all worlds, or the rounds of them that are still to run.

On the ``ray`` engine they run side by side: while one world's server averages and evaluates, the actors train for the
others.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress

from fedinverse.errors import StageError
from fedinverse.layout import PASSIVE, WITH_VICTIM, WITHOUT_VICTIM, World, is_control
from fedinverse.rounds import AfterRound, Round
from fedinverse.run import Run
from pipeline.engines import Engine, run_federation
from pipeline.log import event
from report.console import console, progress_bar
from report.participants import what_clients_said
from report.text import counted, of_round
from server.checkpoints import save_round
from server.settings import Federation

if TYPE_CHECKING:
    from pipeline.engines.ray_session import RaySession


def federate(
    run: Run,
    worlds: Sequence[World],
    engine: Engine,
    profiles: Path | None = None,
    before: Sequence[AfterRound] = (),
    after: Sequence[AfterRound] = (),
    session: "RaySession | None" = None,
) -> None:
    """Bring the federations of ``worlds`` to their last round: side by side on the actors of ``session``, or in turn.

    Every round is handed to the callbacks ``before``, stored, handed to ``after``, and shown; one round at a time, of
    whatever world. With ``profiles``, the engine's own processes leave there what they spent their time on.

    Raises:
        StageError: the engine ended before the last round.
    """
    rounds = run.section("federation", Federation).rounds
    for world in worlds:
        if is_federated(run, world):
            console.print(f"{title_of(world)}: done before, {counted(rounds, 'round')}")
    waiting = [world for world in worlds if not is_federated(run, world)]
    if session is None or len(waiting) < 2:
        for world in waiting:
            with progress_bar() as bar:
                _federate(run, world, engine, profiles, [*before, save_round, *after, _Shown(bar, run, world)], session)
            _tell(run, world)
        return
    session.start()
    in_turn = threading.Lock()
    with progress_bar() as bar, ThreadPoolExecutor(len(waiting)) as threads:
        federations = []
        for world in waiting:
            progress = _Shown(bar, run, world, name=name_of(world))
            callbacks = [_InTurn(in_turn, [*before, save_round, *after, progress])]
            federations.append(threads.submit(_federate, run, world, engine, profiles, callbacks, session))
        try:
            for over in as_completed(federations):
                over.result()
        except BaseException:
            session.stop()
            raise
    for world in waiting:
        _tell(run, world)


def _federate(
    run: Run,
    world: World,
    engine: Engine,
    profiles: Path | None,
    callbacks: Sequence[AfterRound],
    session: "RaySession | None",
) -> None:
    rounds, done = run.section("federation", Federation).rounds, run.last_round(world)
    start = f"resuming after round {done}" if done >= 0 else counted(rounds, "round")
    console.print(f"[b]{title_of(world)}[/b] on engine '{engine.kind}': {start}")
    run_federation(run, world, engine, profiles, callbacks, session)
    if not is_federated(run, world):
        raise StageError(
            f"the federation ended after round {run.last_round(world)} of {rounds}; start again with --resume"
        )


def _tell(run: Run, world: World) -> None:
    for line in what_clients_said(run, world):
        console.print(line)


def name_of(world: World) -> str:
    """Return what to call ``world`` beside a figure of it."""
    if not is_control(world):
        return {WITH_VICTIM: "with the victim", PASSIVE: "passive attacker"}[world]
    return " ".join(["without the victim", world.removeprefix(WITHOUT_VICTIM).removeprefix("-")]).strip()


def title_of(world: World) -> str:
    """Return what to call the federation of ``world`` on the console."""
    if world == PASSIVE:
        return "Federating once more with the attacker passive, for comparison,"
    if not is_control(world):
        return "Federating"
    further = world.removeprefix(WITHOUT_VICTIM).removeprefix("-")
    return f"Federating without the victim (control world{f' {further}, other draws' if further else ''})"


def is_federated(run: Run, world: World) -> bool:
    """Return whether the federation of ``world`` has reached its last round."""
    return run.last_round(world) >= run.section("federation", Federation).rounds


class _Shown:
    """Shows rounds as they are over, and logs them: a callback."""

    def __init__(self, bar: Progress, run: Run, world: World, name: str = "") -> None:
        self._bar, self._name = bar, name
        rounds, done = run.section("federation", Federation).rounds, max(run.last_round(world), 0)
        self._task = bar.add_task("starting clients", total=rounds, completed=done)

    def __call__(self, over: Round) -> None:
        """Show one round."""
        figures = {key: over.utility[key] for key in ("accuracy", "victim-accuracy")}
        event("round", f"round {over.number}", world=over.world, round=over.number, **figures)
        self._bar.update(self._task, completed=over.number, description=self._name or "rounds")
        line = of_round(over.number, figures["accuracy"], figures["victim-accuracy"])
        self._bar.console.print(line + f"   {self._name}".rstrip())


@dataclass(frozen=True)
class _InTurn:
    """Callbacks that several federations share, one round at a time."""

    lock: threading.Lock
    callbacks: Sequence[AfterRound]

    def __call__(self, over: Round) -> None:
        """Hand the round to every one."""
        with self.lock:
            for callback in self.callbacks:
                callback(over)
