"""The command line: ``fedinverse run``, its stages, and the commands beside this file."""

import os
import shlex
import signal
import sys
from collections.abc import Callable
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from fedinverse.errors import ConfigError, FedInverseError
from fedinverse.version import __version__
from fedinverse.words import LONG, plain
from pipeline.cli import (
    attack,
    audit_app,
    audit_model,
    checkpoints,
    data,
    deploy,
    judge,
    membership,
    prior,
    runs,
    sweep,
    updates,
)
from pipeline.cli.held import held
from pipeline.cli.options import ConfigArgument, DryRunOption, OutOption, ProfileOption, ResumeOption, SetOption
from pipeline.cli.program import Program, StoppedError

app = Program(name="fedinverse", add_completion=True)

RunArgument = Annotated[Path, typer.Argument(help="a run directory, e.g. runs/quickstart")]

EXAMPLES = """
**Examples**  in a checkout, "python fedinverse_sim.py" is the same

fedinverse run                                      the quick start
fedinverse run --set seed=1 --set name=second       another seed, another run
fedinverse run --resume                             continue after a stop
fedinverse run --set engine.kind=local              all in one process
fedinverse run mine.toml --dry-run                  check all, then stop

quickstart.toml documents every key; a wrong key names the nearest one.
"""


def _print_version(asked: bool) -> None:
    if asked:
        print(f"fedinverse {__version__}, flwr {version('flwr')}, torch {version('torch')}")
        raise typer.Exit


@app.callback()
def fedinverse(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_print_version,
            help="print the versions of FedInverse, Flower and PyTorch, and exit",
        ),
    ] = False,
) -> None:
    """Measure what one participant of a federation can reconstruct of the others' data. For your own federations."""


@app.command(epilog=EXAMPLES)
def run(
    config: ConfigArgument = "quickstart",
    set_: SetOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
    profile: ProfileOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Simulate a federation with a malicious participant, invert what it captured, audit and report."""
    if dry_run:
        from pipeline.experiment import load_experiment
        from pipeline.preflight import show_plan

        show_plan(load_experiment(config, set_ or [], out))
        return
    from pipeline.engines.early import early_session

    with early_session(config, set_ or [], out, profile=profile) as session:  # beside imports that take seconds
        from pipeline.experiment import load_experiment
        from pipeline.stages.all_stages import run_all

        run_all(load_experiment(config, set_ or [], out), resume=resume, profile=profile, session=session)


@app.command()
def invert(directory: RunArgument) -> None:
    """Invert the captures of a run (only those that are not inverted yet)."""
    from pipeline.stages.controls import controls
    from pipeline.stages.invert import invert as stage

    with held(directory) as opened:
        stage(opened, controls(opened))


@app.command()
def audit(directory: RunArgument) -> None:
    """Score a run's reconstructions beside their controls."""
    from pipeline.stages.outcome import audit_and_gather, show

    with held(directory) as opened:
        show(opened, audit_and_gather(opened))


@app.command()
def report(
    directory: RunArgument,
    pdf: Annotated[bool, typer.Option("--pdf", help="also print it, with an installed Chromium")] = False,
) -> None:
    """Write report.html from a run's audit; with --pdf also report.pdf."""
    from pipeline.stages.report import report as stage
    from report.console import say
    from report.pdf import print_pdf

    with held(directory) as opened:
        page = stage(opened)
    say("Report", str(page))
    if pdf:
        say("PDF", str(print_pdf(page)))


@app.command()
def names() -> None:
    """List the models, data sources, attacks, defences and strategies by name."""
    from attacker.attacks.registry import attack_names
    from clients.defences import defence_names
    from fedinverse.data import source_names
    from fedinverse.models import model_names
    from report.console import console
    from strategies import strategy_names

    lists: list[tuple[str, Callable[[], list[str]]]] = [
        ("models", model_names),
        ("data sources", source_names),
        ("attacks", attack_names),
        ("defences", defence_names),
        ("strategies", strategy_names),
    ]
    for title, known in lists:
        console.print(f"[b]{title:<14}[/b]{', '.join(known())}")


app.command()(attack.attack)
app.command(epilog=membership.EXAMPLES)(membership.membership)
app.command(epilog=updates.EXAMPLES)(updates.updates)
app.command(epilog=audit_app.EXAMPLE)(audit_app.audit_app)
app.command(epilog=audit_model.EXAMPLE)(audit_model.audit_model)
app.command(epilog=sweep.EXAMPLE)(sweep.sweep)
app.command()(sweep.compare)
app.command(epilog=judge.EXAMPLE)(judge.judge)
app.command()(checkpoints.convert)
app.command()(checkpoints.export)
app.add_typer(prior.app, name="prior")
app.add_typer(data.app, name="data")
app.add_typer(deploy.app, name="deploy")
app.add_typer(runs.app, name="runs")


def guarded(command: Callable[[], Any]) -> None:
    """Run ``command``; what the operator can mend ends with one message and exit code 2, a stop with 130."""
    from rich.console import Console
    from rich.markup import escape

    if os.environ.get("COLUMNS") == "0":  # a terminal that does not know its width, on which nothing would be printed
        del os.environ["COLUMNS"]
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin starve the other processes of a run
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without "–" shows "?" and loses nothing else
    problems = Console(stderr=True, highlight=False)
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that what was started is ended, as after Ctrl-C
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _stop)
    try:
        _check_place()
        command()
    except FedInverseError as error:
        for line in str(error).splitlines():
            problems.print(f"[red]error[/red] {escape(plain(line, LONG))}", soft_wrap=True)
        sys.exit(2)
    except OSError as error:
        if error.errno is None:
            raise
        kept = "; what was finished is kept, continue with --resume" if _resumable() else ""
        problems.print(f"[red]error[/red] {escape(plain(str(error), LONG))}{kept}", soft_wrap=True)
        sys.exit(2)
    except StoppedError as stopped:
        problems.print(escape(str(stopped)), soft_wrap=True)
        problems.print(f"go on with: {escape(_again())}", soft_wrap=True)
        sys.exit(130)


def _check_place() -> None:
    try:
        Path.cwd()
    except OSError as error:
        raise ConfigError("the directory you are in is gone; change to one that is there") from error


def _stop(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


RESUMABLE = {"run", "sweep", "local", "audit-app", "audit-model"}


def _again() -> str:
    """Return the command that goes on where this one stopped."""
    program = Path(sys.argv[0]).name
    words = ["python -m fedinverse" if program == "__main__.py" else program, *map(shlex.quote, sys.argv[1:])]
    if program.endswith(".py") and program != "__main__.py":
        words[0] = f"python {program}"
    return " ".join([*words, *(["--resume"] if _resumable() and "--resume" not in sys.argv else [])])


def _resumable() -> bool:
    return sys.argv[0].endswith("_sim.py") or bool(RESUMABLE & set(sys.argv[1:3]))


def main() -> None:
    """Entry point of ``fedinverse``."""
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))
    guarded(app)
