"""The four questions that a participant's seat lets it ask, and where the answers stand.

| question | asked by | answered by |
|---|---|---|
| What do the victim's classes look like? | ``[attacks.LABEL]`` | the verdict itself |
| What was in somebody's last batches? | ``[updates]`` | ``audit/answers/updates.json`` |
| Was this record used for training? | ``[membership]`` | ``audit/answers/membership.json`` |
| Can it make the others leak more? | ``[active]`` | ``audit/answers/active.json`` |

Whoever answers one writes it with ``write_answer``; the verdict and the report take them from ``further_answers``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedinverse.records import read_model
from fedinverse.run import Run
from fedinverse.storage import write_json

Key = Literal["classes", "updates", "membership", "active"]
Reply = Literal["yes", "in part", "no", "inconclusive", "not asked"]


@dataclass(frozen=True)
class Question:
    """One of the four.

    Attributes:
        key: names its answer's file.
        text: the question as a reader sees it.
        section: of the configuration, which asks it.
    """

    key: Key
    text: str
    section: str

    def asked(self, table: dict[str, Any]) -> bool:
        """Return whether the configuration ``table`` asks it."""
        return bool(table.get(self.section))

    def answered(
        self,
        outcome: "Reply",
        sentence: str,
        figures: dict[str, float | None] | None = None,
        marks: Sequence[str] = (),
        inputs: str = "",
    ) -> "Answer":
        """Return the answer to it."""
        return Answer(
            question=self.key,
            text=self.text,
            outcome=outcome,
            sentence=sentence,
            figures=figures or {},
            marks=tuple(marks),
            inputs=inputs,
        )


QUESTIONS = (
    Question("classes", "What do the victim's classes look like?", "attacks"),
    Question("updates", "What was in somebody's last batches?", "updates"),
    Question("membership", "Was this record used for training?", "membership"),
    Question("active", "Can it make the others leak more?", "active"),
)
SECTIONS = tuple(question.section for question in QUESTIONS)


class Answer(BaseModel):
    """What a run says to one question."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    question: Key
    text: str = Field(description="the question")
    outcome: Reply
    sentence: str = Field(description="the answer in one sentence")
    figures: dict[str, float | None] = Field(
        default_factory=dict, description="what it rests on, by name; null: it could not be had"
    )
    marks: tuple[str, ...] = Field((), description="what must be read with it; empty: nothing")
    inputs: str = Field("", description="hash of what it follows from; empty: of the verdict")


def write_answer(run: Run, answer: Answer) -> None:
    """Write ``answer`` to the audit of ``run``."""
    write_json(run.files.auditor.answer(answer.question), answer.model_dump(mode="json"))


def question_of(key: Key) -> Question:
    """Return the question ``key``."""
    return next(question for question in QUESTIONS if question.key == key)


def answer_of(run: Run, question: Question) -> Answer:
    """Return the answer to ``question`` that was written, or that it was not asked, or not answered yet.

    Raises:
        IntegrityError: the file is damaged.
    """
    path = run.files.auditor.answer(question.key)
    if not question.asked(run.table):
        return question.answered("not asked", f"A table [{question.section}] in the configuration asks it.")
    if not path.exists():
        return question.answered("inconclusive", "It was asked, and is not answered yet: audit the run again.")
    return read_model(Answer, path, "audit the run again")


def further_answers(run: Run) -> tuple[Answer, ...]:
    """Return the answers to the questions beside the verdict's own, in their order."""
    return tuple(answer_of(run, question) for question in QUESTIONS[1:])
