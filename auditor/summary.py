"""The score table in brief: one line per attack and round, each figure beside its controls."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from auditor.scores import ACCURACY, RESEMBLANCE


@dataclass(frozen=True)
class RoundSummary:
    """Means over the victim's classes; shares in [0, 1].

    Attributes:
        attack: its label.
        round: of the captured model.
        known: the model's own accuracy on the victim's reserve images.
        learned: whether that reaches the gate; below it a low figure says nothing about safety.
        recognised: arm A, share of reconstructions E1 reads as the intended class.
        resembling: arm A, share near enough to a training image by E2; None when E2 could not be calibrated.
        prior_only: arm B0.
        untrained: arm B1, of the run; None without it.
        no_victim: arm B2, of the same round; None without it.
    """

    attack: str
    round: int
    known: float
    learned: bool
    recognised: float
    resembling: float | None
    prior_only: float
    untrained: float | None
    no_victim: float | None


def summarise(
    scores: pd.DataFrame, known: Mapping[int, float], victim_classes: Collection[int], gate: float
) -> list[RoundSummary]:
    """Return every attacked round, by attack and round; ``known`` is the model's accuracy by round."""
    value = {
        (line["metric"], line["arm"], line["attack"], line["round"]): float(line["value"])
        for line in _means(scores, victim_classes)
    }
    untrained = {
        attack: share for (metric, arm, attack, _), share in value.items() if (metric, arm) == (ACCURACY, "B1")
    }
    return [
        RoundSummary(
            attack,
            number,
            known[number],
            known[number] >= gate,
            share,
            value.get((RESEMBLANCE, "A", attack, number)),
            value[ACCURACY, "B0", attack, number],
            untrained.get(attack),
            value.get((ACCURACY, "B2", attack, number)),
        )
        for (metric, arm, attack, number), share in sorted(value.items())
        if (metric, arm) == (ACCURACY, "A")
    ]


def _means(scores: pd.DataFrame, labels: Collection[int]) -> list[dict[str, Any]]:
    chosen = scores[scores["label"].isin(labels)]
    means = pd.DataFrame(chosen.groupby(["metric", "arm", "attack", "round"])["value"].mean()).reset_index()
    return [{str(key): value for key, value in line.items()} for line in means.to_dict("records")]
