"""Stage 4: gather a run's figures and write ``report.html``."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import tomli_w

from auditor.activity import read_active
from auditor.arms import ARMS
from auditor.canaries import read_canaries
from auditor.marks import marks_of_run
from auditor.membership import read_report
from auditor.people.reading import read_people
from auditor.questions import QUESTIONS, answer_of
from auditor.settings import Audit
from auditor.table import read_scores
from auditor.verdict import Point, read_verdict
from clients.cohorts import defences_of
from fedinverse.errors import StageError
from fedinverse.layout import WORLDS
from fedinverse.run import Run
from fedinverse.split import holdings
from fedinverse.storage import atomic_write
from pipeline.profile import stored_times
from pipeline.provenance import provenance
from pipeline.stages.answers import answers_of
from pipeline.stages.gallery import copies_of, galleries
from pipeline.stages.inversions import directory_of, finished
from report.judge.tables import people_figures
from report.participants import clients_table, cohorts_table
from report.run import Figures, Leakage, render
from report.run.active import active_figures
from report.run.canaries import alarms, canary_table
from report.run.curve import chart
from report.run.findings import facts, figures, finding, omitted
from report.run.membership import membership_figures
from report.run.partition import partition
from report.run.plain import next_steps, qualification, sentence
from report.run.tables import classes, controls, leakage, meanings, utility, whole_set, whose
from report.run.updates import update_figures
from report.table import Panel, Table
from report.text import as_sentence, readable, share
from report.threat import threat_model

T = TypeVar("T")
OF_COST = {
    "arm": "the captured model, or the control whose model this is",
    "prior": "seconds the attacker waited for its prior: trained once, then read from the cache",
    "inversion": "seconds of the optimisation itself",
    "target queries": "images sent through the model",
    "steps": "optimisation steps",
    "failed images": "those that met NaN: black, and never counted as a success",
}
SHEET_BYTES = 200_000  # a sheet of samples larger than this stays in the run directory
SHEETS = {
    "A": "The reconstructions the attacker would keep, beside the victim's training image nearest to each",
    "B0": "Unoptimised samples of the same prior, beside the nearest images of the class",
    "B2": "The same attack without the victim, beside the nearest images of the class",
    "B4": "Public images that the model takes for the class, beside the nearest images of the class",
}


def report(run: Run) -> Path:
    """Write the page; return its path. A run without attacks gets a page about its utility.

    Raises:
        StageError: the run was attacked and its scores are not there.
    """
    scored = run.files.auditor.scores
    if run.table.get("attacks") and not scored.exists():
        raise StageError(f"{scored} is not there: audit the run first, 'fedinverse audit {run.path}'")
    page = _attacked(run, read_scores(scored)) if scored.exists() else _unattacked(run)
    path = run.files.report
    atomic_write(path, render(page))
    return path


def _common(run: Run, marks: Sequence[str] = ()) -> dict[str, Any]:
    counts = holdings(run.split, run.population.clients, len(run.class_names))
    victim = run.population.victim if run.victim_classes else None
    files = run.files.auditor
    planted = _answered(run, "canaries", files.canaries, read_canaries)
    scored = _answered(run, "membership", files.membership, read_report)
    defences = {client: name for client, (name, _) in defences_of(run).items()}
    return {
        "name": str(run.table["name"]),
        "provenance": provenance(run),
        "marks": [*(marks or marks_of_run(run)), *(alarms(planted) if planted else ())],
        "utility": utility(run.recorded_rounds("with_victim")),
        "partition": partition(counts, victim, run.class_names),
        "clients": clients_table(run, defences),
        "cohorts": cohorts_table(run, defences),
        "threat": threat_model(run),
        "answers": answers_of(run),
        "membership": membership_figures(scored) if scored else None,
        "canaries": canary_table(planted) if planted else None,
        "updates": _updates(run),
        "active": _active(run),
        "times": [(stage, f"{s:.0f} s") for stage, s in stored_times(run.files.times).items()],
        "config": tomli_w.dumps(_without_none(run.table)),
    }


def _answered(run: Run, section: str, path: Path, read: Callable[[Path], T]) -> T | None:
    """Return what ``read`` makes of the answer in ``path``; None: ``section`` does not ask, or it is not answered."""
    return read(path) if run.table.get(section) and path.exists() else None


def _updates(run: Run) -> Panel | None:
    """Return what inverted updates say, where that is asked and was answered."""
    question, picture = QUESTIONS[1], run.files.auditor.updates_picture
    answered = question.asked(run.table) and run.files.auditor.answer(question.key).exists() and picture.exists()
    return update_figures(answer_of(run, question), picture) if answered else None


def _active(run: Run) -> Panel | None:
    """Return what an active participant won and what the server could see, where there was one."""
    report = _answered(run, "active", run.files.auditor.active, read_active)
    if report is None:
        return None
    pictures = {world: run.files.auditor.active_picture(world) for world in run.worlds}
    return active_figures(report, {w: file.read_bytes() for w, file in pictures.items() if file.exists()})


def _unattacked(run: Run) -> Figures:
    last = run.recorded_rounds("with_victim")[-1]
    plain = f". After round {last.round} the model reads {share(last.accuracy)} of the reserve images."
    return Figures(title="No attack was run", plain=plain, **_common(run))


def _attacked(run: Run, scores: pd.DataFrame) -> Figures:
    verdict = read_verdict(run.files.verdict)
    known = run.known_at(scores.loc[scores["arm"] == "A", "round"])
    gate = run.section("audit", Audit).primary.gate
    points, primary = verdict.points, verdict.primary
    first = primary.attack
    ordered = dict.fromkeys([first, *verdict.attacks])
    rounds = {attack: _shown_round(points, attack, primary.round) for attack in ordered}
    victims = [run.class_names[label] for label in run.victim_classes]
    by_class = {line.round: line.class_accuracy for line in run.recorded_rounds("with_victim")}
    measured = Leakage(
        charts=[chart(points, attack, number, known, gate) for attack, number in rounds.items()],
        galleries=galleries(run, scores, rounds),
        copies=copies_of(run, first, rounds[first]),
        whose=whose(verdict.main),
        people=_people(run, primary.attack, primary.round),
        sheets=_sheets(run, first, primary.round),
        controls=controls(verdict.main),
        figures=figures(verdict),
        rounds=leakage(points),
        classes=classes(scores, (first, primary.round), run.class_names, run.victim_classes, by_class[primary.round]),
        whole_set=whole_set(scores, (first, primary.round)),
        metrics=meanings(scores),
        omitted=omitted(verdict),
        cost=_cost(run),
    )
    title, plain = sentence(verdict)
    return Figures(
        outcome=verdict.outcome,
        title=title,
        plain=plain,
        qualification=qualification(verdict),
        advice=next_steps(verdict),
        headline=readable(verdict.sentence),
        finding=finding(verdict.main, victims, primary.metric),
        notes=[as_sentence(reason) for reason in verdict.reasons],
        facts=facts(verdict),
        leakage=measured,
        **_common(run, verdict.marks),
    )


def _people(run: Run, attack: str, server_round: int) -> Panel | None:
    """Return what people said of the primary attack's images; None: nobody's answers were read."""
    path = run.files.sheet.reading
    if not path.exists():
        return None
    judged = (each for each in finished(run) if each.attack == attack and each.target.round == server_round)
    return people_figures(read_people(path), next(directory_of(run, each) for each in judged if each.target.arm == "A"))


def _shown_round(points: Sequence[Point], attack: str, wanted: int) -> int:
    """Return the primary round, or the last at which ``attack`` was run when it was not run there."""
    had = [point.round for point in points if point.attack == attack]
    return wanted if wanted in had else max(had)


def _sheets(run: Run, attack: str, server_round: int) -> list[tuple[str, str, bytes]]:
    sheets = []
    for arm, caption in SHEETS.items():
        path = run.files.auditor.grid(attack, arm, server_round)
        if path.exists() and path.stat().st_size <= SHEET_BYTES:
            sheets.append((f"{arm}. {caption}.", f"{caption}, one row per victim class", path.read_bytes()))
    return sheets


def _cost(run: Run) -> Table:
    rows = []
    for each in finished(run):
        arm, world = each.target.arm, each.target.world
        about = each.inversion.about
        rows.append([
            f"{each.attack or ARMS[arm].name}, round {each.target.round}",
            f"{arm} {ARMS[arm].name}" + (f" ({world})" if world not in WORLDS else ""),
            f"{about.prior_seconds:.0f} s",
            f"{about.cost.seconds:.0f} s",
            f"{about.cost.target_queries:,}",
            f"{about.cost.steps:,}",
            str(about.failed),
        ])  # fmt: skip
    header = ["target", "arm", "prior", "inversion", "target queries", "steps", "failed images"]
    return Table("Every model that was inverted, controls among them", header, rows, OF_COST)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value
