"""Can an active participant make the others leak more, and would the server have noticed? The auditor's half.

Leakage is what the active attack won; beside it stands the same federation in which the attacker trained honestly (the
passive world) and the one without the victim. Detectability is read from what the server noted of every update
(``federation.watch_updates``): of the attacker when active, of the same node when passive, and of honest clients, whose
figures say how often an innocent one would have been dropped.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from auditor.questions import Answer, Reply, question_of
from auditor.statistics import newcombe, wilson
from auditor.verdict import Interval, Missing
from fedinverse.layout import PASSIVE, WITH_VICTIM, World
from fedinverse.records import read_model
from fedinverse.run import Run
from fedinverse.storage import read_jsonl

RULES = {"krum-drops": "Krum", "median-drops": "median", "trimmed-drops": "trimmed mean"}
NOT_WATCHED = "federation.watch_updates was off: nothing is known of single updates"
ONE_RUN = "one federation and one active attacker: nothing is said of others"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Visible(_Part):
    """What the server could see of some updates; means over rounds, null where too few updates came in."""

    whose: str
    updates: int
    z: float | None = Field(description="of the length, against the others of the round")
    cosine: float | None = Field(description="with the others' mean update")
    krum: float | None = Field(description="place by Krum's score as a share: 0 the most trusted, 1 the least")
    dropped: dict[str, float | None] = Field(description="rule: share of rounds in which it would have been left out")


class ActiveReport(_Part):
    """``audit/active.json``."""

    kind: str
    gain: str = Field(description="what the figures of ``leakage`` are")
    leakage: dict[str, Interval | Missing] = Field(
        description="active, passive, no victim, real images; what the kind has"
    )
    difference: Interval | Missing = Field(description="active less its control")
    control: str = Field(description="the control that ``difference`` subtracts")
    resolution: float = Field(description="smallest difference that matters")
    accuracy: dict[str, tuple[float, float | None]] = Field(
        description="world: global accuracy after the last round, on all classes and on the victim's"
    )
    visible: tuple[Visible, ...] | Missing
    notes: tuple[str, ...] = ()
    inputs: str = ""


def read_active(path: Path) -> ActiveReport:
    """Read ``audit/active.json``; ``IntegrityError`` names the file and the key that does not fit."""
    return read_model(ActiveReport, path, "delete it and audit again")


def share_of(right: Sequence[bool]) -> Interval:
    """Return the share of ``right`` answers with Wilson's interval, as if the samples were independent."""
    low, high = wilson(sum(right), len(right))
    return Interval(value=sum(right) / len(right), low=low, high=high, marks=())


def less(one: Interval, other: Interval) -> Interval:
    """Return the difference of two shares with Newcombe's interval."""
    apart = newcombe(one, other)
    return Interval(value=apart.value, low=apart.low, high=apart.high, marks=())


def accuracies(run: Run, worlds: Sequence[World]) -> dict[str, tuple[float, float | None]]:
    """Return the accuracy after the last round, all classes and the victim's, of ``worlds`` that were run."""
    last = {world: run.recorded_rounds(world)[-1:] for world in worlds}
    return {world: (lines[0].accuracy, lines[0].victim_accuracy) for world, lines in last.items() if lines}


def visible_in(run: Run, attackers: Sequence[int]) -> tuple[Visible, ...] | Missing:
    """Return what the server could see of active attackers, of the same nodes when passive, and of honest clients."""
    lines = {world: _noted(run, world) for world in (WITH_VICTIM, PASSIVE)}
    if not lines[WITH_VICTIM]:
        return Missing(omitted=NOT_WATCHED)
    groups = {
        "the attacker, active": [line for line in lines[WITH_VICTIM] if line["partition"] in attackers],
        "the same client, passive": [line for line in lines[PASSIVE] if line["partition"] in attackers],
        "the other clients": [line for line in lines[WITH_VICTIM] if line["partition"] not in attackers],
    }
    return tuple(_visible(whose, lines) for whose, lines in groups.items() if lines)


def _noted(run: Run, world: World) -> list[dict[str, Any]]:
    """Return the lines of a world, of a round that was run twice the later ones."""
    lines = read_jsonl(run.files.server.updates(world))
    return list({(line["round"], line["partition"]): line for line in lines}.values())


def _visible(whose: str, lines: list[dict[str, Any]]) -> Visible:
    places = [(line["krum"] - 1) / max(1, line["of"] - 1) for line in lines if line["krum"] is not None]
    return Visible(
        whose=whose,
        updates=len(lines),
        z=_mean([line["z"] for line in lines]),
        cosine=_mean([line["cosine"] for line in lines]),
        krum=_mean(places),
        dropped={name: _mean([line[key] for line in lines]) for key, name in RULES.items()},
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return float(np.mean(known)) if known else None


def answer_to(report: ActiveReport, marks: tuple[str, ...] = ()) -> Answer:
    """Return the answer that ``report`` gives."""
    question = question_of("active")
    gained = report.difference
    figures: dict[str, float | None] = {
        name: figure.value if isinstance(figure, Interval) else None for name, figure in report.leakage.items()
    }
    outcome: Reply
    if isinstance(gained, Missing):
        outcome, sentence = "inconclusive", f"What it gained cannot be said: {gained.omitted}."
    else:
        figures["difference"] = gained.value
        words = f"{report.gain}, less {report.control}: {gained.value:+.3f} [{gained.low:+.3f}, {gained.high:+.3f}]"
        outcome, sentence = _outcome(gained, report.resolution, words)
    if not isinstance(report.visible, Missing):
        dropped = report.visible[0].dropped
        figures |= {f"dropped by {rule}": share for rule, share in dropped.items()}
        rules = ", ".join(
            f"a {rule} server in {100 * share:.0f} %" for rule, share in dropped.items() if share is not None
        )
        sentence += f" Its updates would have been dropped by {rules} of its rounds." if rules else ""
    missing = (report.visible.omitted,) if isinstance(report.visible, Missing) else ()
    return question.answered(outcome, sentence, figures, (*marks, ONE_RUN, *missing, *report.notes), report.inputs)


def _outcome(gained: Interval, resolution: float, words: str) -> tuple[Reply, str]:
    if gained.low > 0:
        if gained.value >= resolution:
            return "yes", f"It gained by being active ({words})."
        return "in part", f"It gained by being active, by less than the {resolution:g} that matters ({words})."
    if gained.high < resolution:
        return "no", f"It gained nothing that matters by being active ({words})."
    return "inconclusive", f"Neither shown nor excluded ({words})."
