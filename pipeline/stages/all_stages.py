"""A whole run, stage after stage. Each is skipped when its outputs are there, so a killed run is simply run again."""

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from auditor.evaluators.ahead import Ahead
from auditor.verdict import read_verdict
from fedinverse.disk import Budget
from fedinverse.errors import FedInverseError
from fedinverse.layout import RunFiles, is_run
from fedinverse.lock import only_here
from fedinverse.rounds import AfterRound, Thinning
from fedinverse.run import Run, check_fresh, prepare
from fedinverse.storage import read_object
from fedinverse.tables import flat
from pipeline.disk import check_disk
from pipeline.engines import session_of
from pipeline.experiment import Experiment, completed, resolved, worlds_of
from pipeline.log import event, logging_to
from pipeline.preflight import check_before_work
from pipeline.profile import Stages
from pipeline.provenance import note_start
from pipeline.runs import stage_of
from pipeline.stages.active import active, lay_out
from pipeline.stages.answers import show_answers
from pipeline.stages.canaries import canaries
from pipeline.stages.controls import controls
from pipeline.stages.federate import federate, is_federated
from pipeline.stages.invert import Meanwhile, invert
from pipeline.stages.membership import membership
from pipeline.stages.needed import InvertedRounds
from pipeline.stages.outcome import audit_and_gather, evaluators_ahead, show, summary_of
from pipeline.stages.report import report
from pipeline.stages.updates import updates
from pipeline.tracking import Trackers
from report.console import bars_when_told, console, echo, say, show_threat_model
from report.run.partition import write_partition

if TYPE_CHECKING:
    from pipeline.engines.ray_session import RaySession


NAME = "name with --set name=..."  # how the user of a configuration file names another run


def run_all(
    experiment: Experiment, *, resume: bool, profile: bool = False, session: "RaySession | None" = None
) -> Path:
    """Run every stage, alone in the run directory; return the report.

    ``session``: Ray that the caller has begun for this run, and ends; None: it is begun here, if it is needed.

    Raises:
        ConfigError: the run directory exists and ``resume`` was not asked for, or the run needs more disk than it has.
        StageError: another process works in the run directory.
        FedInverseError: see the stages.
    """
    path = directory_of(experiment)
    with only_here(path):
        check_fresh(path, NAME, resume=resume)
        return stages_in(path, experiment, profile=profile, begun=session)


def directory_of(experiment: Experiment) -> Path:
    """Return where the run directory is, or will be."""
    return (Path(experiment.out) / experiment.name).resolve()


def stages_in(path: Path, experiment: Experiment, *, profile: bool = False, begun: "RaySession | None" = None) -> Path:
    """Run every stage in ``path``, which the caller holds; return the report. ``begun``: see ``run_all``."""
    echo(f"preparing data for {path}", "dim")
    stages = Stages(path, profile=profile)
    federated = is_run(path) and _is_federated(Run(path), experiment)
    opened = nullcontext(begun) if federated or begun else session_of(experiment.engine, profile=profile)
    with opened as session:
        with stages.stage("prepare"):
            run = ready(experiment, path, session)
            write_partition(run)
            note_start(run)
        with logging_to(path, flat(run.table)):
            show_threat_model(run)
            trackers = Trackers(run, experiment.tracking)
            words: dict[str, str] = {}
            try:
                with evaluators_ahead(run) if experiment.attacks else nullcontext() as ahead:
                    page = _stages(run, experiment, stages, trackers, session, ahead)
                words = _words(run) | {"report": str(page)}
            except KeyboardInterrupt:
                kept = f"stopped ({stage_of(path)}); all that was finished is kept in {path}"
                raise KeyboardInterrupt(kept) from None
            finally:
                trackers.close(words)
            stages.write_profile(run)
            console.print(stages.summary())
            say("Report", str(page))
    return page


def _is_federated(run: Run, experiment: Experiment) -> bool:
    return all(is_federated(run, world) for world in worlds_of(experiment))


def ready(experiment: Experiment, path: Path, session: "RaySession | None" = None) -> Run:
    """Prepare the run directory and try all that a later stage would refuse; what is refused leaves nothing behind.

    A finished run is not tried again, unless its configuration changed. ``session`` starts meanwhile.

    Raises:
        ConfigError: names the key and the fix.
        DataError: a source is absent.
    """
    files, table = RunFiles(path), resolved(experiment)
    there, fresh = is_run(path), not path.exists()
    finished = there and files.report.exists() and completed(read_object(files.config)) == table
    if session is not None and not finished:
        session.begin()
    check_disk(experiment, path)
    with bars_when_told() as progress:
        run = prepare(path, table, completed, progress)
    if finished:
        return run
    try:
        forecast = check_before_work(run, experiment)
    except FedInverseError:
        if fresh:
            shutil.rmtree(path)
        elif not there:
            for file in (files.config, files.split, files.pools):
                file.unlink()
        raise
    for note in forecast.notes:
        console.print(f"[yellow]note[/yellow] {escape(note)}", soft_wrap=True)
    return run


def _stages(
    run: Run,
    experiment: Experiment,
    stages: Stages,
    trackers: Trackers,
    session: "RaySession | None",
    ahead: Ahead | None,
) -> Path:
    worlds = worlds_of(experiment)
    federating = experiment.attacks and not _is_federated(run, experiment)
    storage = experiment.storage
    before = [Budget(storage.budget)] if storage.budget is not None else []
    after: list[AfterRound] = [trackers.after_round]
    if storage.checkpoints == "needed":
        thinning = Thinning(InvertedRounds(run))
        for world in run.worlds:  # what an earlier process, or a deployed server, has left behind goes first
            thinning.thin(run, world)
        after.insert(0, thinning)
    if experiment.active is not None:
        lay_out(run, worlds)
    engine, profiles = experiment.engine, stages.processes
    with stages.stage("federate"), Meanwhile(run, profiles) if federating else nullcontext():
        federate(run, worlds, engine, profiles, before, after, session)
    if session is not None:
        session.end()
    if experiment.canaries is not None:
        with stages.stage("canaries"):
            canaries(run)
    if experiment.attacks:
        with stages.stage("controls"):
            targets = controls(run)
        with stages.stage("invert"):
            invert(run, targets, stages.processes)
    _questions(run, experiment, stages)
    if experiment.attacks:
        with stages.stage("audit"):
            scores = audit_and_gather(run, ahead)
        for line in summary_of(run, scores):
            shares = {"recognised": line.recognised, "resembling": line.resembling, **line.controls}
            accuracies = {f"{line.attack}/{name}": share for name, share in shares.items() if share is not None}
            event("scores", f"{line.attack}, round {line.round}", attack=line.attack, round=line.round, **shares)
            trackers.scalars(line.round, accuracies)
    with stages.stage("report"):
        page = report(run)
    if experiment.attacks:  # the page is written by now, whatever becomes of the terminal
        show(run, scores)
    else:
        show_answers(run)
    trackers.scalars(experiment.federation.rounds, {f"seconds/{name}": value for name, value in stages.times.items()})
    return page


def _questions(run: Run, experiment: Experiment, stages: Stages) -> None:
    """Answer what is asked of captures beside the attacks."""
    if experiment.updates is not None:
        with stages.stage("updates"):
            updates(run)
    if experiment.membership is not None:
        with stages.stage("membership"):
            membership(run)
    if experiment.active is not None:
        with stages.stage("active"):
            active(run)


def _words(run: Run) -> dict[str, str]:
    """Return the outcome in words, for trackers."""
    verdict = run.files.verdict
    if not verdict.exists():
        return {"outcome": "no attack was run"}
    read = read_verdict(verdict)
    marks = {"marks": " ".join(read.marks)} if read.marks else {}
    settle = {"to settle it": "; ".join(read.settle)} if read.settle else {}
    return {"outcome": read.outcome, "claim": read.claim, "verdict": read.sentence, **settle, **marks}
