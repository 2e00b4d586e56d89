"""The four questions and their answers, gathered: into the verdict, onto the terminal, for the report."""

from dataclasses import replace

from auditor.decision import Outcome
from auditor.questions import QUESTIONS, Answer, Reply, further_answers
from auditor.verdict import read_verdict
from fedinverse.records import AuditSummary, read_record, write_record
from fedinverse.run import Run
from fedinverse.storage import file_sha256, write_json
from report.console import bullets, console

_REPLIES: dict[Outcome, Reply] = {
    "leak": "yes",
    "selected": "in part",
    "recognised only": "in part",
    "below resolution": "in part",
    "the class, not the client": "in part",
    "no leak detected": "no",
    "inconclusive": "inconclusive",
}


def answers_of(run: Run) -> tuple[Answer, ...]:
    """Return the answer to every question; the first is the verdict's, which may be absent."""
    first, path = QUESTIONS[0], run.files.verdict
    if not path.exists():
        classes = first.answered("not asked", "No attack was run.")
    else:
        verdict = read_verdict(path)
        classes = first.answered(_REPLIES[verdict.outcome], verdict.sentence)
    return classes, *further_answers(run)


def gather(run: Run) -> None:
    """Write the answers into the verdict, where there is one that lacks them, and into the audit's account of it."""
    path, summary = run.files.verdict, run.files.auditor.summary
    if not (path.exists() and summary.exists()):
        return
    verdict, answers = read_verdict(path), answers_of(run)
    if verdict.answers == answers:
        return
    write_json(path, verdict.model_copy(update={"answers": answers}).model_dump(mode="json"))
    account = read_record(AuditSummary, summary)
    write_record(summary, replace(account, products=account.products | {path.name: file_sha256(path)}))


def show_answers(run: Run) -> None:
    """Print the questions that this run asks beside the verdict's own, and their answers."""
    for answer in further_answers(run):
        if answer.outcome != "not asked":
            show_answer(answer)


def show_answer(answer: Answer) -> None:
    """Print one answer and its marks."""
    console.print(f"[b]{answer.text}[/b] {answer.outcome}. {answer.sentence}", soft_wrap=True)
    bullets(answer.marks, "yellow")
