"""Was this record used for training? The auditor asks, the attacker's scores answer, the auditor judges.

The same scores are computed on the federation without the victim, as a control. Results are keyed by all that they
follow from.
"""

from pathlib import Path

import pandas as pd
from torch import Tensor

from attacker.membership.references import holdings
from attacker.membership.scores import SCORES
from attacker.membership.signals import open_models
from attacker.schedule import captured, check_received
from attacker.settings import Attacker
from auditor.marks import marks_of_question
from auditor.membership import Candidates, MembershipReport, answer_to, candidates_of, read_report
from auditor.questions import question_of, write_answer
from fedinverse.client_data import pooled_shard
from fedinverse.layout import WITH_VICTIM, spools_of
from fedinverse.models import Classifier
from fedinverse.records import ModelFile
from fedinverse.run import Run
from fedinverse.seeds import derive, threads
from fedinverse.storage import atomic_write, content_sha256, write_json
from pipeline.stages.membership_scores import Membership, Seat, check, measured, of_rounds
from report.console import console

VERSION = 1  # of scores and figures; raise it when one of them changes
QUESTION = question_of("membership")


def membership(run: Run) -> MembershipReport:
    """Answer the question for ``run``, unless that is done; write ``audit/membership.json``, scores and the answer.

    Raises:
        StageError: nothing was captured, or too few candidates are there.
        ConfigError: a setting that this run cannot have.
    """
    settings = run.section("membership", Membership)
    check(settings, str(run.files.config))
    spool = run.files.attacker.spool(WITH_VICTIM)
    spools = spools_of(run.files.attacker, WITH_VICTIM)
    check_received(*spools)
    models = of_rounds(captured(*spools), settings, spool)
    beside = _control(run, models)
    key = _key(settings, models, beside, run)
    path, answered = run.files.auditor.membership, run.files.auditor.answer(QUESTION.key)
    if path.exists() and answered.exists() and run.files.auditor.membership_scores.exists():
        stored = read_report(path)
        if stored.inputs == key:
            console.print("Membership: the scores are up to date")
            return stored
    asked = candidates_of(run, settings.per_class, with_vault=settings.with_vault)
    console.print(
        f"[b]Membership[/b]: {int(asked.member.sum())} members and {int((~asked.member).sum())} non-members under the "
        f"models of rounds {', '.join(map(str, models))}",
        soft_wrap=True,
    )
    with threads(1):
        seat = _seat_of(run, settings)
        figures, scores = measured(asked, models, beside, seat, settings, _bound(run, max(models), seat.device))
    report = figures.model_copy(update={"inputs": key})
    _write_scores(run, asked, scores)
    write_json(path, report.model_dump(mode="json"))
    write_answer(run, answer_to(report, marks_of_question(run, QUESTION)))
    return report


def _control(run: Run, models: dict[int, Path]) -> dict[int, Path] | str:
    """Return the models of the same rounds of the first world without the victim, or why there are none."""
    if not run.control_worlds:
        return "no federation without the victim was run (audit.without_victim)"
    world = run.control_worlds[0]
    received = captured(*spools_of(run.files.attacker, world))
    stored = {number: run.files.server.checkpoint(world, number) for number in models}
    beside = {number: received.get(number, stored[number]) for number in models}
    lost = [number for number, path in beside.items() if not path.exists()]
    if lost:
        return f"the models of rounds {lost} of the world without the victim were not kept"
    return beside


def _bound(run: Run, last: int, device: str) -> list[Classifier] | str:
    """Return the models of round ``last`` of every control world, which never saw a candidate."""
    paths = [run.files.server.checkpoint(world, last) for world in run.control_worlds]
    kept = [path for path in paths if path.exists()]
    if not kept:
        return "no model of a world without the victim was kept for that round"
    return [open_models({0: path}, device)[0] for path in kept]


def _seat_of(run: Run, settings: Membership) -> Seat:
    shard = pooled_shard(run)
    held = holdings(shard, run.pools["public"], run.class_names)
    device = run.section("attacker", Attacker).device
    return Seat(held, settings.references, device, derive(run.seed, "membership"))


def _key(settings: Membership, models: dict[int, Path], beside: dict[int, Path] | str, run: Run) -> str:
    """Return a hash of everything that the report follows from."""
    hashes = [[number, ModelFile.read(path).sha256] for number, path in models.items()]
    others = beside if isinstance(beside, str) else [ModelFile.read(path).sha256 for path in beside.values()]
    worlds = [
        ModelFile.read(path).sha256
        for world in run.control_worlds
        for path in [run.files.server.checkpoint(world, max(models))]
        if path.exists()
    ]
    marks = marks_of_question(run, QUESTION)
    public = run.pools["public"].path.name
    chosen = settings.model_dump(mode="json")
    return content_sha256([VERSION, list(SCORES), chosen, hashes, others, worlds, public, marks])


def _write_scores(run: Run, asked: Candidates, scores: dict[str, Tensor]) -> None:
    """Write one line per candidate: its row in the private source, its class, whether it is a member, every score."""
    columns = {"row": asked.rows, "label": asked.labels.numpy(), "member": asked.member}
    frame = pd.DataFrame(columns | {name: values.numpy() for name, values in scores.items()})
    atomic_write(run.files.auditor.membership_scores, frame.to_parquet(index=False))
