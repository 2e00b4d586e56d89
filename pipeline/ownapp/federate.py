"""Stage 1 for somebody's app: start its federation in a process of its own, and evaluate every model it sends."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path

from rich.markup import escape

from attacker.schedule import captured
from attacker.spool import Spool
from fedinverse.errors import IntegrityError, StageError
from fedinverse.layout import ROUND_FILES, WITH_VICTIM, World, is_control
from fedinverse.models import Classifier, build
from fedinverse.private import part_of
from fedinverse.records import ModelFile, RoundLine, append_lines, read_record
from fedinverse.registry import search_path
from fedinverse.storage import Weights, into_module, load_weights
from pipeline.engines.engine import quiet
from pipeline.log import event
from pipeline.ownapp.client import hook_marker
from pipeline.ownapp.plan import COMPLAINTS, DONE, FAILED, Failed, Federated, Plan
from pipeline.ownapp.prepare import Prepared, names_of
from pipeline.stages.federate import title_of
from report.console import console
from report.text import of_round
from server.utility import utility

LOG, PLAN, SPOOL = "app.log", "plan.json", "spool.json"
_PARTIAL = "the app shares some layers only, so that nobody is sent a whole model that could be audited"
_LOOK = 0.3  # seconds between two looks at what was sent


def federate_app(prepared: Prepared, world: World, heard: Callable[[World, RoundLine], None]) -> None:
    """Run the federation of ``world``, unless it was; a world that was cut off is run again from its start.

    Raises:
        StageError: it failed; their exception is shown as theirs.
        IntegrityError: what it sends does not fit the model.
    """
    files = prepared.run.files
    directory = files.server.federation(world)
    if (directory / DONE).exists():
        console.print(f"{title_of(world)}: done")
        return
    shutil.rmtree(directory, ignore_errors=True)
    if world == WITH_VICTIM:
        shutil.rmtree(files.attacker.spool(world), ignore_errors=True)
        files.auditor.own_shard_model("app").unlink(missing_ok=True)
    (directory / COMPLAINTS).mkdir(parents=True)
    plan = _plan(prepared, world)
    plan.write(directory / PLAN)
    engine = "one process" if prepared.settings.engine == "local" else "Flower's simulation runtime"
    console.print(f"[b]{title_of(world)}[/b]: the app '{prepared.app.name}' on {engine}", soft_wrap=True)
    judge = _Utility(prepared, world, heard)
    with (directory / LOG).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.ownapp.federation", str(directory / PLAN)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=quiet(dict(os.environ)) | {"PYTHONPATH": search_path()},
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                judge.look()
                time.sleep(_LOOK)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode or not (directory / DONE).exists():
        raise StageError(_reason(prepared, directory, process.returncode))
    judge.look()
    _check(prepared, world, read_record(Federated, directory / DONE))


def _plan(prepared: Prepared, world: World) -> Plan:
    settings, app, run = prepared.settings, prepared.app, prepared.run
    files = run.files
    about = run.about_model
    names = names_of(settings, build(run.model.name, len(run.class_names), seed=0))
    spool = Spool(str(files.attacker.spool(world)), about, names, settings.record)
    capture = files.server.federation(world) / SPOOL
    spool.write(capture)
    return Plan(
        app=str(app.directory),
        serverapp=app.serverapp,
        clientapp=app.clientapp,
        run_config=app.config | settings.run_config,
        clients=settings.clients,
        attacker=settings.attacker,
        victim=settings.victim,
        world=world,
        hide_victim=is_control(world) and prepared.victim_goes,
        directory=str(files.server.federation(world)),
        capture=str(capture),
        about=about,
        names=names,
        record=settings.record,
        own_shard=str(files.auditor.own_shard_model("app")) if world == WITH_VICTIM else "",
        data=settings.data,
        engine=settings.engine,
        actors=settings.actors,
        patience=settings.patience,
        rows=prepared.rows.of(world),
    )


class _Utility:
    """Evaluates the models that are sent, in order, as they come, and records a line per round."""

    def __init__(self, prepared: Prepared, world: World, heard: Callable[[World, RoundLine], None]) -> None:
        self._run, self._world, self._heard = prepared.run, world, heard
        self._network = build(self._run.model.name, len(self._run.class_names), seed=0)
        self._held_out = part_of(self._run, "reserve")
        self._seen: set[Path] = set()

    def look(self) -> None:
        """Evaluate what is new.

        Raises:
            IntegrityError: a model does not fit; names and shapes are listed side by side.
        """
        files = self._run.files.server
        for path in sorted(files.checkpoint(self._world, 0).parent.glob(ROUND_FILES)):
            if path in self._seen:
                continue
            self._seen.add(path)
            weights, about = load_weights(path)
            check_fit(weights, self._network, f"the model that the app sends ({path.name})")
            into_module(self._network, weights, str(path))
            scores = utility(self._network, self._held_out, self._run.victim_classes)
            file = ModelFile.of(about)
            line = RoundLine.of(file.round, scores, file.sha256)
            append_lines(files.rounds(self._world), [line])
            figures = {key: scores[key] for key in ("accuracy", "victim-accuracy")}
            event("round", f"round {line.round}", world=self._world, round=line.round, **figures)
            self._heard(self._world, line)
            console.print(of_round(line.round, line.accuracy, line.victim_accuracy))


def check_fit(weights: Weights, network: Classifier, who: str) -> None:
    """Refuse arrays of other names or shapes than ``network`` has.

    Raises:
        IntegrityError: lists both side by side and names the key of audit.toml to mend.
    """
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    listed = set(weights) == {str(number) for number in range(len(weights))}  # a file sorts them as words
    order = sorted(weights, key=int) if listed else list(weights)
    given = {name: tuple(weights[name].shape) for name in order}
    if wanted == given:
        return
    ours, theirs = ([*(f"{name} {list(shape)}" for name, shape in arrays.items())] for arrays in (wanted, given))
    width = max(map(len, ["the model of audit.toml", *ours]))
    rows = [("the model of audit.toml", "what the app sends")]
    sizes = len(wanted), sum(1 for _ in network.parameters())
    if listed and len(given) not in sizes:
        fix = f"it sends a bare list of {len(given)}, the model has {sizes[0]} arrays, {sizes[1]} of them parameters: "
        fix += f"correct model, or {_PARTIAL}"
        rows += zip_longest(ours, theirs, fillvalue="-")
    elif listed:
        fix = f"it sends a bare list of {len(given)}: set state to 'list' or 'parameters', or correct model"
        rows += zip_longest(ours, theirs, fillvalue="-")
    else:
        fix = "correct model (and model_arguments, classes), or record if the message has several array records"
        if given.items() < wanted.items():
            fix += f", or {_PARTIAL}"
        both = list(dict.fromkeys([*wanted, *given]))
        differing = [(name in wanted, name in given, name) for name in both if wanted.get(name) != given.get(name)]
        rows += [
            (f"{name} {list(wanted[name])}" if a else "-", f"{name} {list(given[name])}" if b else "-")
            for a, b, name in differing
        ]
    table = "\n".join(f"  {a:<{width}}  {b}" for a, b in rows[:25])
    raise IntegrityError(f"{who} does not fit the model of audit.toml; {fix}\n{table}")


def _check(prepared: Prepared, world: World, done: Federated) -> None:
    """Refuse a federation that ran to its end and is of no use; say what else did not go well.

    Raises:
        StageError: nothing was trained, or the attacker was sent nothing; names the key.
    """
    settings, run = prepared.settings, prepared.run
    directory = run.files.server.federation(world)
    unfinished = directory / DONE
    failed = done.failures
    try:
        if not done.rounds and done.records:
            raise StageError(
                f"record: no message of the app has an array record called '{settings.record}' (it has: "
                f"{', '.join(done.records)}); correct it"
            )
        if not done.rounds:
            raise StageError("app: its ServerApp ended without asking any client to train")
        if not done.answered:
            reasons = _complaint(directory) or "; ".join(dict.fromkeys(failed.values()))
            raise StageError(f"app: every client failed.\n{reasons}")
        deaf = prepared.rows.of(world) and [
            client for client in done.sent_to
            if str(client) not in failed and not hook_marker(directory, str(client)).exists()
        ]  # fmt: skip
        if deaf:
            raise StageError(
                f"data: the app's clients do not load their images with '{settings.data}' (client {deaf[0]} never "
                f"called it), so that none could be kept from them; set held_out to a function that gives images no "
                "client trains on" + (", and without = 'client'" if settings.without == "classes" else "")
            )
        if world == WITH_VICTIM and not captured(run.files.attacker.spool(world)):
            raise StageError(
                f"attacker: client {settings.attacker} was never sent the model in {done.rounds} round(s) "
                f"(clients that were: {', '.join(map(str, done.sent_to))}); choose one of them, or raise the "
                "app's number of rounds or share of clients in [run_config]"
            )
    except StageError:
        unfinished.unlink()
        raise
    for name, reason in list(failed.items())[:3]:
        console.print(f"[yellow]client {name} failed[/yellow]: {escape(reason[:200])}", soft_wrap=True)


def _complaint(directory: Path) -> str:
    first = next(iter(sorted((directory / COMPLAINTS).glob("client-*.txt"))), None)
    if first is None:
        return ""
    text = first.read_text(encoding="utf-8", errors="replace").rstrip()
    return f"{first.stem.replace('-', ' ')} raised:\n{text}"


def _reason(prepared: Prepared, directory: Path, code: int) -> str:
    """Return what a federation's process died of, in one message."""
    where = f"its whole output is in {directory / LOG}"
    if not (directory / FAILED).exists():
        tail = "\n".join((directory / LOG).read_text(errors="replace").splitlines()[-15:])
        return f"the app's federation ended with code {code}; {where}\n{tail}"
    failed = read_record(Failed, directory / FAILED)
    if failed.kind == "stalled":
        hidden = " (the victim's is hidden in the control world)" if Plan.read(directory / PLAN).hide_victim else ""
        return (
            f"clients: the app's strategy waits for more nodes than the {failed.nodes} there are{hidden}, and sent "
            f"nothing for {failed.seconds:.0f} s; lower its min_available_nodes (in [run_config] if the app has a "
            "key for it), raise clients, or set without = 'classes'. If its server only needs longer to begin, raise "
            "patience"
        )
    if failed.kind == "record":
        return (
            f"record: the app's messages carry several array records of the same shapes ({failed.text}); set record "
            "to the one with the weights"
        )
    complaint = _complaint(directory)
    if failed.kind == "server" and not complaint:
        return f"app: its ServerApp raised; {where}\n{failed.text}"
    if failed.kind in ("server", "clients"):
        return f"app: {failed.text.splitlines()[-1]}; {where}\n{complaint}"
    return f"app: {failed.text}"
