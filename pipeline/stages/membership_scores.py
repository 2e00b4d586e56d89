"""Membership scores of candidates, beside their controls: of a run, or of any spool of captures.

What computes the scores is given images and labels, captured models, the attacker's own images and public ones, and
nothing that says who is a member; the auditor's figures are made afterwards.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from attacker.membership.references import FEWEST, Holdings, References, train_references
from attacker.membership.scores import SCORES, Population, lira_offline, rmia, scores_of
from attacker.membership.signals import confidences, open_models, signals
from auditor.membership import Candidates, MembershipReport, judged
from auditor.metrics.roc import Floats
from fedinverse.config import Section, parse
from fedinverse.errors import ConfigError, StageError
from fedinverse.models import Classifier
from fedinverse.seeds import generator
from fedinverse.storage import read_metadata
from fedinverse.tables import Table
from report.console import console, table
from report.run.membership import table_of

BOUNDS = {"lira-control": "lira-offline", "rmia-control": "rmia"}
"""The same scores with models of control worlds as references, which no participant has: an upper bound."""
NOTHING_HELD = "the attacker holds no image to compare with"
MOST_RECORDS = 2000  # of the attacker's own images, that RMIA compares a candidate with


class Membership(Section):
    """Was this record used for training? Present: asked."""

    score: str = Field("loss", description=f"the score that answers, fixed before the run: {', '.join(SCORES)}")
    rounds: tuple[int, ...] = Field((), description="captured rounds that are used; empty: all")
    per_class: int = Field(500, ge=0, description="most members of a class, and as many non-members; 0: all there are")
    with_vault: bool = Field(
        False,
        description="non-members also from the vault, which no client holds either: more of them, so that the rate at "
        "1 % false positives can be read",
    )
    resolution: float = Field(0.05, gt=0, lt=0.5, description="smallest area above .5 that matters")
    references: References = Field(References(), description="models that the attacker trains to compare with")


@dataclass(frozen=True)
class Seat:
    """What a participant has to answer with, beside captures.

    Attributes:
        held: images to train references on, and RMIA's population.
    """

    held: Holdings
    settings: References
    device: str
    seed: int


def measured(
    asked: Candidates,
    models: Mapping[int, Path],
    beside: Mapping[int, Path] | str,
    seat: Seat,
    settings: Membership,
    bound: list[Classifier] | str,
    notes: tuple[str, ...] = (),
) -> tuple[MembershipReport, dict[str, Tensor]]:
    """Return what every score says of ``asked``, and the scores by name, float64 [N].

    Args:
        beside: models of the world without the victim by round, or why there are none.
        bound: models that the auditor alone has and that never saw a candidate, or why there are none.
    """
    opened = open_models(models, seat.device)
    references = _references(seat, models)
    lacking = seat.held.lacking(asked.labels) if not isinstance(references, str) else ()
    if lacking:
        notes += (
            f"the attacker holds no image of {len(lacking)} of the candidates' classes, so its reference models know "
            "nothing of them (lira-offline, rmia)",
        )
    scores = _captures_alone(asked, opened) | _referenced(asked, opened, references, seat)
    control: Mapping[str, Tensor] = {}
    if not isinstance(beside, str):
        without = open_models(beside, seat.device)
        control = _captures_alone(asked, without) | _referenced(asked, without, references, seat)
    lines = [
        judged(name, scores[name].numpy(), asked.member, _control(control, name, beside), seat.seed)
        for name in SCORES
        if name in scores
    ]
    omitted = {name: _reason(name, opened, references) for name in SCORES if name not in scores}
    ours = "its reference models are those of the control world"
    known = _referenced(asked, opened, bound, seat)
    for name, source in BOUNDS.items():
        if source in known:
            scores[name] = known[source]
            lines.append(judged(name, scores[name].numpy(), asked.member, ours, seat.seed, by_attacker=False))
        else:
            omitted[name] = bound if isinstance(bound, str) else NOTHING_HELD
    members = int(asked.member.sum())
    report = MembershipReport(
        primary=settings.score,
        resolution=settings.resolution,
        rounds=tuple(sorted(models)),
        members=members,
        others=len(asked.member) - members,
        scores=tuple(lines),
        omitted=omitted,
        notes=(*asked.notes, *notes),
    )
    return report, scores


def _captures_alone(asked: Candidates, models: Mapping[int, Classifier]) -> dict[str, Tensor]:
    return scores_of(signals(models, asked.images, asked.labels))


def _references(seat: Seat, models: Mapping[int, Path]) -> list[Classifier] | str:
    """Return the models that the attacker trains to compare with, or why it has none."""
    if seat.settings.count == 0:
        return "membership.references.count is 0"
    if len(seat.held.labels) < FEWEST:
        return f"the attacker holds {len(seat.held.labels)} images to train reference models on, {FEWEST} are needed"
    about = read_metadata(models[max(models)])
    network = about["model"], int(about["classes"]), float(about["width"])
    return train_references(seat.held, network, seat.settings, seat.seed, seat.device)


def _referenced(
    asked: Candidates, models: Mapping[int, Classifier], references: list[Classifier] | str, seat: Seat
) -> dict[str, Tensor]:
    """Return the scores that compare the last of ``models`` with ``references``."""
    if isinstance(references, str):
        return {}
    target = models[max(models)]
    phi = confidences(target, asked.images, asked.labels)
    out = torch.stack([confidences(each, asked.images, asked.labels) for each in references])
    scores = {"lira-offline": lira_offline(phi, out)}
    count = len(seat.held.labels)
    if count:
        rows = torch.randperm(count, generator=generator(seat.seed, "membership records"))[:MOST_RECORDS]
        images, labels = seat.held.images[rows], seat.held.labels[rows]
        records = Population(
            confidences(target, images, labels), torch.stack([confidences(each, images, labels) for each in references])
        )
        scores["rmia"] = rmia(phi, out, records)
    return scores


def _control(control: Mapping[str, Tensor], name: str, beside: Mapping[int, Path] | str) -> Floats | str:
    """Return the score ``name`` on the world without the victim, or why there is none."""
    if isinstance(beside, str):
        return beside
    return control[name].numpy() if name in control else "the world without the victim has too few of these models"


def _reason(name: str, models: Mapping[int, Classifier], references: list[Classifier] | str) -> str:
    if name in BOUNDS.values():
        return references if isinstance(references, str) else NOTHING_HELD
    if name == "last-layer":
        return "the network has no last layer with a row for every class"
    return f"models of two rounds are needed, of {len(models)} was captured"


def check(settings: Membership, origin: str) -> None:
    """Raise ``ConfigError`` if the score is none."""
    if settings.score not in SCORES:
        raise ConfigError(f"{origin}: 'membership.score' is '{settings.score}'; choose one of {', '.join(SCORES)}")


def of_table(table: Table) -> Membership:
    """Return the section that the command line gives as ``table``, checked."""
    settings = parse(Membership, table, "membership", "--set")
    check(settings, "--set")
    return settings


def of_rounds(models: Mapping[int, Path], settings: Membership, spool: Path) -> dict[int, Path]:
    """Return those of the captured ``models`` that are used, by round.

    Raises:
        StageError: there is none, or not one of the rounds asked for.
    """
    if not models:
        raise StageError(f"{spool} holds no capture: run the federation with a malicious client first")
    missing = sorted(set(settings.rounds) - models.keys())
    if missing:
        raise StageError(f"membership.rounds asks for {missing}, but captured were the rounds {sorted(models)}")
    return {number: path for number, path in models.items() if not settings.rounds or number in settings.rounds}


def show(report: MembershipReport) -> None:
    """Print one line per score, and what could not be had."""
    scores = table_of(report)
    table(scores.caption, scores.header, scores.rows)
    for name, reason in report.omitted.items():
        console.print(f"[dim]{name}: {reason}[/dim]", soft_wrap=True)
