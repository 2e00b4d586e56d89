"""Stage 1: run the federation, or the rounds of it that are still to run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress

from fedinverse.errors import StageError
from fedinverse.layout import PASSIVE, WITHOUT_VICTIM, World, is_control
from fedinverse.rounds import AfterRound, Round
from fedinverse.run import Run
from pipeline.engines import Engine, run_federation
from pipeline.log import event
from report.client_reports import what_clients_said
from report.console import console, progress_bar
from report.text import counted, percent
from server.checkpoints import save_round
from server.settings import Federation

if TYPE_CHECKING:
    from pipeline.engines.ray import RaySession


def federate(
    run: Run,
    world: World,
    engine: Engine,
    profiles: Path | None = None,
    before: Sequence[AfterRound] = (),
    after: Sequence[AfterRound] = (),
    session: "RaySession | None" = None,
) -> None:
    """Bring the federation of ``world`` to its last round.

    Every round is handed to the callbacks ``before``, stored, handed to ``after``, and shown. With ``profiles``, the
    engine's own processes leave there what they spent their time on; those of ``session`` are used where there is one.

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
    with progress_bar() as bar:
        callbacks: list[AfterRound] = [*before, save_round, *after, _Shown(bar, rounds, done)]
        run_federation(run, world, engine, profiles, callbacks, session)
    if _done(run, world) < rounds:
        raise StageError(f"the federation ended after round {_done(run, world)} of {rounds}; start again with --resume")
    for line in what_clients_said(run, world):
        console.print(line)


def title_of(world: World) -> str:
    """Return what to call the federation of ``world`` on the console."""
    if world == PASSIVE:
        return "Federating with the active attacker passive (to hold him against)"
    if not is_control(world):
        return "Federating"
    further = world.removeprefix(WITHOUT_VICTIM).removeprefix("-")
    return f"Federating without the victim (control world{f' {further}, other draws' if further else ''})"


def is_federated(run: Run, world: World) -> bool:
    """Return whether the federation of ``world`` has reached its last round."""
    return _done(run, world) >= run.section("federation", Federation).rounds


def _done(run: Run, world: World) -> int:
    lines = run.recorded_rounds(world)
    return lines[-1].round if lines else -1


class _Shown:
    """Shows rounds as they are over, and logs them: a callback."""

    def __init__(self, bar: Progress, rounds: int, done: int) -> None:
        self._bar = bar
        self._task = bar.add_task("starting clients", total=rounds, completed=max(done, 0))

    def __call__(self, over: Round) -> None:
        """Show one round."""
        figures = {key: over.utility[key] for key in ("accuracy", "victim-accuracy")}
        event("round", f"round {over.number}", world=over.world, round=over.number, **figures)
        self._bar.update(self._task, completed=over.number, description="rounds")
        self._bar.console.print(
            f"  round {over.number:>3}   accuracy {percent(figures['accuracy']):>7}"
            f"   victim's classes {percent(figures['victim-accuracy']):>7}"
        )
