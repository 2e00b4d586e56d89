"""``verdict.json``, version 2: the verdict, every figure it rests on, why, and what would settle it.

Schema: the fields of ``Verdict`` below, docs/verdict.md. A figure that could not be had is ``{"omitted": reason}``.
Numbers are shares in [0, 1] unless their field says otherwise. Within a version fields are only ever added.
``read_verdict`` is the one reader: it takes version 1 too, and refuses what it does not know.
"""

from pathlib import Path
from typing import Any, Literal, overload

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from auditor.arms import ARMS
from auditor.decision import Outcome
from auditor.leakage import Leakage
from auditor.omitted import Omitted
from auditor.questions import Answer
from auditor.statistics import Estimate
from fedinverse.errors import IntegrityError
from fedinverse.records import as_model
from fedinverse.storage import read_object

VERSION = 2
EVERY_METRIC = "every metric"  # what an arm lacks that was not made at all
Claim = Literal["this run", "these classes over federations"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Missing(_Part):
    """A figure that could not be had."""

    omitted: str = Field(description="why")


class Interval(_Part):
    """A figure with its 95 % interval; ``marks`` must be shown wherever it is shown."""

    value: float
    low: float
    high: float
    marks: tuple[str, ...] = Field(description="what a reader must know before believing it; empty: nothing")


@overload
def as_written(figure: Estimate) -> Interval: ...
@overload
def as_written(figure: Estimate | Omitted) -> Interval | Missing: ...
def as_written(figure: Estimate | Omitted) -> Interval | Missing:
    """Return ``figure`` as ``verdict.json`` holds it."""
    if isinstance(figure, Omitted):
        return Missing(omitted=figure.reason)
    return Interval(value=figure.value, low=figure.low, high=figure.high, marks=figure.marks)


class GateReport(_Part):
    """The target's accuracy on the victim classes' reserve images, against the gate."""

    accuracy: float
    threshold: float
    learned: bool = Field(description="whether the gate is passed; below it nothing found says nothing")
    text: str


Whose = Literal["the client", "the class, not the client", "neither", "unknown"]


class AttributionReport(_Part):
    """Of a victim who shares their classes: whose images one attack at one round shows."""

    answer: Whose = Field(
        description="whose they are; neither: not even the class is shown; unknown: it is not settled"
    )
    others: Interval = Field(
        description="2 s - 1 of the share s nearer to their images than to as many at other clients"
    )
    nobody: Interval | Missing = Field(description="the same against as many images that nobody holds")
    without: Interval | Missing = Field(description="'others' of the same attack without their client")
    resemblance: dict[str, Interval | Missing] = Field(
        description="share like an image of the 'victim', of 'others', of 'nobody', equally many of each"
    )
    copied: dict[str, float | Missing] = Field(
        description="different training images copied: of the 'victim', of 'others', of 'nobody'; and of the 'victim, "
        "without their client'"
    )


class Point(_Part):
    """One attack at one round."""

    attack: str
    round: int
    outcome: Outcome = Field(description="what the verdict would be if this were the primary attack and round")
    gate: GateReport | Missing
    arms: dict[str, Interval | Missing] = Field(description="mean score of every arm; B2: false positives")
    leakage: Interval | Missing = Field(description="victim-attributable: A - B2")
    leads: dict[str, Interval | Missing] = Field(description="A less each other control: B0, B1, B3, B4")
    selection: Interval | Missing = Field(description="B4 - B4W: of what public images score, what the victim explains")
    corrected: Interval | Missing = Field(description="(A - FPR) / (1 - FPR), never clipped; read it beside arms.B2")
    normalised: Interval | Missing = Field(description="(A - m) / (CEIL - m), m = max(B0, B2, B3)")
    p: float | Missing = Field(description="two-sided, of 'leakage is 0', unadjusted")
    p_holm: float | Missing = Field(description="the same, adjusted by Holm over the rounds of this attack")
    minimum_detectable_effect: float | Missing = Field(description="leakage found with 80 % probability")
    attribution: AttributionReport | Missing = Field(
        Missing(omitted="the victim alone holds its classes, so that the leakage is the victim's"),
        description="whose images are shown, of a victim who shares their classes",
    )


class AttackCost(_Part):
    """What one run of an attack on one captured model cost: all classes, all restarts."""

    seconds: float = Field(ge=0, description="of the inversion, and of waiting for its prior")
    target_queries: float = Field(ge=0, description="images sent through the captured model")


class LeakCost(_Part):
    """What the primary attack cost its attacker for one class leaked."""

    seconds: float = Field(description="of the inversion, and of waiting for its prior")
    target_queries: float = Field(description="images sent through the captured model")
    classes_leaked: float = Field(description="leakage x classes")

    @classmethod
    def of(cls, outcome: Outcome, main: Leakage, cost: AttackCost | None) -> "LeakCost | Missing":
        """Return ``cost`` over the classes that leaked, or why there is no such figure."""
        if outcome != "leak":
            return Missing(omitted=f"the verdict is '{outcome}'")
        if main.attribution is not None:
            return Missing(omitted="what leaks is the client's images, not classes")
        if cost is None:
            return Missing(omitted=f"the cost of {main.attack} was not recorded")
        assert isinstance(main.leakage, Estimate)
        leaked = main.leakage.value * main.leakage.classes
        return cls(seconds=cost.seconds / leaked, target_queries=cost.target_queries / leaked, classes_leaked=leaked)


class PrimaryReport(_Part):
    """What was fixed before the run."""

    attack: str
    round: int
    metric: str
    resolution: float = Field(description="smallest leakage that matters")


class RunDeviation(_Part):
    """The deviation between runs that the intervals of one run carry."""

    deviation: float = Field(description="of the mean score of one federation")
    control_worlds: int = Field(description="worlds without the victim it was measured on; 1: assumed, not measured")


class Omission(_Part):
    """Figures that the score table lacks, for one reason."""

    metric: str
    reason: str
    arms: tuple[str, ...] = Field(description="the arms concerned")
    figures: int = Field(description="how many figures: exhibits, or classes of exhibits")

    @classmethod
    def of_arm(cls, arm: str, reason: str) -> "Omission":
        """Return what is missing of an arm that was not made at all."""
        return cls(metric=EVERY_METRIC, reason=reason, arms=(arm,), figures=1)


class Verdict(_Part):
    """``verdict.json``."""

    version: Literal[2] = Field(2, description="of this schema; fields are only ever added within a version")
    rules: Literal[1, 2] = Field(2, description="version whose rules decided; 1: read from a verdict of version 1")
    outcome: Outcome
    claim: Claim = Field(description="what the outcome and the intervals speak of")
    sentence: str = Field(description="the verdict in one sentence")
    reasons: tuple[str, ...] = Field(description="why this outcome, the decisive one first; never empty")
    settle: tuple[str, ...] = Field((), description="what would settle an inconclusive verdict, the surest first")
    primary: PrimaryReport
    seeds: int = Field(description="federation seeds the primary figure rests on")
    classes: int = Field(description="victim classes it rests on")
    between_runs: RunDeviation | Missing
    points: tuple[Point, ...] = Field(description="every attack at every round, by attack and round")
    time_to_leak: dict[str, int | Missing] = Field(
        description="attack: the round from which on every attacked round is a leak"
    )
    cost_per_leaked_class: LeakCost | Missing
    member_lift: Interval | Missing = Field(
        description="share nearer to training than to reserve images: 0.5 prototypes, above memorised"
    )
    attacks: tuple[str, ...] = Field(description="the attacks this verdict is relative to")
    omitted: tuple[Omission, ...] = Field((), description="what the score table lacks, and why")
    marks: tuple[str, ...] = Field((), description="what must be shown wherever the verdict is; empty: nothing")
    answers: tuple[Answer, ...] = Field((), description="the four questions of a participant's seat, and their answers")

    @property
    def main(self) -> Point:
        """The primary attack at the primary round."""
        return next(
            point for point in self.points if (point.attack, point.round) == (self.primary.attack, self.primary.round)
        )


def read_verdict(path: Path) -> Verdict:
    """Read a verdict of version 2, or of version 1 as far as it goes (``rules`` is then 1).

    Raises:
        IntegrityError: damaged, or of a version that this program does not know; names the file and the fix.
    """
    document = read_object(path, "version")
    if document["version"] not in (1, VERSION):
        raise IntegrityError(f"{path} is of version {document['version']}, known are 1 and {VERSION}; audit it again")
    try:
        if document["version"] == 1:
            document = _from_version_1(document)
        return as_model(Verdict, document, path, "audit the run again")
    except (AttributeError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path}: not a verdict of version 1 ({error!r}); audit the run again") from None


def _from_version_1(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document of version 1 in the form of version 2: what it lacks is missing, its outcome stays."""
    lacking = {"omitted": "a verdict of version 1 does not say"}
    points = [
        {key: value for key, value in point.items() if key != "above_controls"}
        | {
            "outcome": "inconclusive",
            "leads": dict.fromkeys(("B0", "B1", "B3", "B4"), lacking),
            "selection": lacking,
            "arms": {arm: point["arms"].get(arm, lacking) for arm in ARMS},
        }
        for point in document["points"]
    ]
    for point in points:
        if all(point[key] == document["primary"][key] for key in ("attack", "round")):
            point["outcome"] = document["outcome"]
    return document | {
        "version": 2,
        "rules": 1,
        "claim": "this run" if document["seeds"] == 1 else "these classes over federations",
        "between_runs": lacking,
        "points": points,
    }


TABLE_COLUMNS = ("attack", "round", "figure", "value", "low", "high", "omitted")
OF_POINT = ("leakage", "corrected", "normalised", "p", "p_holm", "minimum_detectable_effect")


def leakage_table(verdict: Verdict) -> pd.DataFrame:
    """Return columns ``TABLE_COLUMNS``: the figures ``OF_POINT`` of every point, and every attack's ``time-to-leak``.

    A time to leak is a round; it stands at round -1, because it speaks of all rounds.
    """
    rows = [
        {"attack": point.attack, "round": point.round, "figure": name} | _cells(getattr(point, name))
        for point in verdict.points
        for name in OF_POINT
    ]
    rows += [
        {"attack": attack, "round": -1, "figure": "time-to-leak"} | _cells(first_round)
        for attack, first_round in verdict.time_to_leak.items()
    ]
    return pd.DataFrame(rows, columns=list(TABLE_COLUMNS))


def _cells(figure: Interval | Missing | float) -> dict[str, Any]:
    if isinstance(figure, Missing):
        return {"omitted": figure.omitted}
    if isinstance(figure, Interval):
        return {"value": figure.value, "low": figure.low, "high": figure.high, "omitted": ""}
    return {"value": float(figure), "omitted": ""}
