"""The four questions: every one has its line, asked or not, in the verdict, on the report and in the threat model."""

from typing import Any

import pytest

from auditor.questions import QUESTIONS, Answer, answer_of, further_answers, write_answer
from auditor.verdict import read_verdict
from fedinverse.errors import IntegrityError
from fedinverse.run import Run
from pipeline.stages.answers import answers_of
from report.threat import threat_model


def test_a_verdict_answers_the_question_that_was_asked_and_says_which_were_not(attacked_run: Any) -> None:
    verdict = read_verdict(attacked_run.files.verdict)
    assert [answer.question for answer in verdict.answers] == ["classes", "updates", "membership", "active"]
    assert verdict.answers[0].sentence == verdict.sentence
    assert {answer.outcome for answer in verdict.answers[1:]} == {"not asked"}
    page = attacked_run.files.report.read_text()
    assert all(question.text.replace("'", "&#39;") in page for question in QUESTIONS)


def test_a_run_without_attacks_asks_nothing(unattacked_run: Any) -> None:
    assert {answer.outcome for answer in answers_of(unattacked_run)} == {"not asked"}
    assert dict(threat_model(unattacked_run))["Asked"] == "nothing: no attack is run"


def test_the_threat_model_names_what_is_asked_and_what_the_server_could_see(attacked_run: Any) -> None:
    lines = dict(threat_model(attacked_run))
    assert lines["Asked"] == "1 of 4 questions: What do the victim's classes look like?"
    assert "every update" in lines["Server sees"]
    assert "honest" in lines["Actively"]


def test_an_answer_is_read_as_it_was_written_and_damage_is_named(attacked_run: Any, tmp_path: Any) -> None:
    question, run = QUESTIONS[1], Run(tmp_path)
    run.__dict__["table"] = {"updates": {"images": 4}}
    assert further_answers(run)[0].outcome == "inconclusive"
    answer = Answer(question="updates", text=question.text, outcome="no", sentence="Nothing.", figures={"psnr": 9.5})
    write_answer(run, answer)
    assert answer_of(run, question) == answer
    run.files.auditor.answer("updates").write_text('{"question": "updates"}')
    with pytest.raises(IntegrityError, match=r"updates\.json"):
        answer_of(run, question)
