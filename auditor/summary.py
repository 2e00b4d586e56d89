"""The score table in brief: one line per attack and round, each figure beside its controls."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from auditor.arms import CONTROLS, ONCE
from auditor.metrics.names import RESEMBLANCE
from auditor.table import EVERY_ATTACK


@dataclass(frozen=True)
class RoundSummary:
    """Means over the victim's classes; shares in [0, 1].

    Attributes:
        attack: its label.
        round: of the captured model.
        known: the model's own accuracy on the victim's reserve images.
        learned: whether that reaches the gate; below it a low figure says nothing about safety.
        recognised: arm A, the metric asked for: share of reconstructions read as the intended class.
        resembling: arm A, share near enough to a training image by E2; None when E2 could not be calibrated.
        controls: the same share of every arm of ``CONTROLS``; None for one that was not run. B1 and B3 have one
            target for all rounds.
    """

    attack: str
    round: int
    known: float
    learned: bool
    recognised: float
    resembling: float | None
    controls: dict[str, float | None]


def summarise(
    scores: pd.DataFrame, known: Mapping[int, float], victim_classes: Collection[int], gate: float, asked: str
) -> list[RoundSummary]:
    """Return every attacked round, by attack and round.

    Args:
        scores: the tidy score table.
        known: the model's accuracy by round.
        victim_classes: over which means are taken.
        gate: accuracy from which a round counts as learned.
        asked: the metric, a share.
    """
    value = {
        (line["metric"], line["arm"], line["attack"], line["round"]): float(line["value"])
        for line in _means(scores, victim_classes)
    }
    once = {(arm, attack): share for (metric, arm, attack, _), share in value.items() if metric == asked}
    return [
        RoundSummary(
            attack,
            number,
            known[number],
            known[number] >= gate,
            share,
            value.get((RESEMBLANCE, "A", attack, number)),
            {
                arm: (
                    once.get((arm, attack), once.get((arm, EVERY_ATTACK)))
                    if arm in ONCE
                    else value.get((asked, arm, attack, number))
                )
                for arm in CONTROLS
            },
        )
        for (metric, arm, attack, number), share in sorted(value.items())
        if (metric, arm) == (asked, "A")
    ]


def _means(scores: pd.DataFrame, labels: Collection[int]) -> list[dict[str, Any]]:
    chosen = scores[scores["label"].isin(labels)]
    means = pd.DataFrame(chosen.groupby(["metric", "arm", "attack", "round"])["value"].mean()).reset_index()
    return [{str(key): value for key, value in line.items()} for line in means.to_dict("records")]
