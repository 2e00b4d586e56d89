"""What came out of a run: the audit with the answers to all four questions, its page, and both on the terminal."""

from contextlib import AbstractContextManager, nullcontext

import pandas as pd

from auditor.arms import CONTROLS
from auditor.evaluators.ahead import Ahead
from auditor.settings import Audit
from auditor.summary import RoundSummary, summarise
from auditor.table import read_scores
from auditor.verdict import read_verdict
from fedinverse.run import Run
from pipeline.profile import Stages
from pipeline.stages.answers import gather, show_answers
from pipeline.stages.audit import audit
from pipeline.stages.controls import controls
from pipeline.stages.invert import invert, samples_beforehand
from pipeline.stages.report import report
from report.console import console, say, table
from report.text import whole


def evaluators_ahead(run: Run) -> AbstractContextManager[Ahead | None]:
    """Return what trains the evaluators of ``run`` beside the other stages; None where it was audited before."""
    if run.files.auditor.summary.exists():
        return nullcontext()
    return Ahead(run, run.section("audit", Audit), samples_beforehand(run))


def audit_and_gather(run: Run, ahead: Ahead | None = None) -> pd.DataFrame:
    """Audit ``run``, write the answers to all four questions into its verdict, and return the scores.

    ``ahead`` has been training the evaluators.

    Raises:
        StageError: nothing was inverted yet.
    """
    audit(run, ahead)
    gather(run)
    return read_scores(run.files.auditor.scores)


def attacked(run: Run, stages: Stages) -> None:
    """Do all that follows a federation that is not ours: controls, inversion, audit, report; then say what came out."""
    with evaluators_ahead(run) as ahead:
        with stages.stage("controls"):
            targets = controls(run)
        with stages.stage("invert"):
            invert(run, targets)
        with stages.stage("audit"):
            scores = audit_and_gather(run, ahead)
    with stages.stage("report"):
        page = report(run)
    show(run, scores)  # the page is written by now, whatever becomes of the terminal
    console.print(stages.summary())
    say("Report", str(page))


def summary_of(run: Run, scores: pd.DataFrame) -> list[RoundSummary]:
    """Return the scores in brief: one line per attack and round."""
    primary = run.section("audit", Audit).primary
    known = run.known_at(scores.loc[scores["arm"] == "A", "round"])
    return summarise(scores, known, run.victim_classes, primary.gate, primary.metric)


def show(run: Run, scores: pd.DataFrame) -> None:
    """Print leakage per round beside its controls, and the verdict."""
    lines = summary_of(run, scores)
    arms = [arm for arm in CONTROLS if any(line.controls[arm] is not None for line in lines)]
    for attack in dict.fromkeys(line.attack for line in lines):
        rows = [
            [
                str(line.round),
                *map(whole, (line.known, line.recognised, *(line.controls[arm] for arm in arms))),
                "" if line.learned else "not yet",
            ]
            for line in lines
            if line.attack == attack
        ]
        header = ["round", "model", "attack", *arms, ""]
        table(f"Attack '{attack}': % of images read as the victim's class", header, rows)
    names = ", ".join(f"{arm} {CONTROLS[arm]}" for arm in arms)
    console.print(
        f"[dim]{run.section('audit', Audit).primary.metric}; model: its own accuracy on the victim's classes "
        f"(not yet: below the gate); controls: {names}[/dim]",
        soft_wrap=True,
    )
    verdict = read_verdict(run.files.verdict)
    console.print(f"[b]{verdict.sentence}[/b]", soft_wrap=True)
    for mark in verdict.marks:
        console.print(f"  - {mark}", soft_wrap=True, style="yellow")
    for reason in verdict.reasons:
        if reason not in verdict.marks:
            console.print(f"  - {reason}", soft_wrap=True)
    if verdict.settle:
        console.print("To settle it:")
    for way in verdict.settle:
        console.print(f"  - {way}", soft_wrap=True)
    show_answers(run)
