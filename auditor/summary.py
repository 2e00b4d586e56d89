"""The score table in brief: one line per attack and round, each figure beside its controls."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pandas as pd

from auditor.scores import ACCURACY, UTILITY


@dataclass(frozen=True)
class RoundSummary:
    """Means over the victim's classes; shares in [0, 1].

    Attributes:
        attack: its label.
        round: of the captured model.
        known: the model's own accuracy on the victim's reserve images.
        learned: whether that reaches the gate; below it a low figure says nothing about safety.
        recognised: arm A, share of reconstructions E1 reads as the intended class.
        prior_only: arm B0.
        untrained: arm B1, of the run; None without it.
        no_victim: arm B2, of the run; None without it.
    """

    attack: str
    round: int
    known: float
    learned: bool
    recognised: float
    prior_only: float
    untrained: float | None
    no_victim: float | None


def utility_by_round(scores: pd.DataFrame, victim_classes: Collection[int]) -> dict[int, float]:
    """Return the global model's accuracy on the victim's classes by round, in the world with the victim."""
    return {
        line["round"]: line["value"]
        for line in _means(scores, victim_classes, UTILITY, ["round"])
        if line["world"] == "with_victim"
    }


def summarise(scores: pd.DataFrame, victim_classes: Collection[int], gate: float) -> list[RoundSummary]:
    """Return every attacked round, by attack and round."""
    known = utility_by_round(scores, victim_classes)
    value = {
        (line["arm"], line["attack"], line["round"]): line["value"]
        for line in _means(scores, victim_classes, ACCURACY, ["arm", "attack", "round"])
    }
    single = {(arm, attack): share for (arm, attack, _), share in value.items() if arm in ("B1", "B2")}
    return [
        RoundSummary(
            attack,
            number,
            known[number],
            known[number] >= gate,
            share,
            value["B0", attack, number],
            single.get(("B1", attack)),
            single.get(("B2", attack)),
        )
        for (arm, attack, number), share in sorted(value.items())
        if arm == "A"
    ]


def _means(scores: pd.DataFrame, labels: Collection[int], metric: str, by: list[str]) -> list[dict[str, Any]]:
    chosen = scores[scores["label"].isin(labels) & (scores["metric"] == metric)]
    means = pd.DataFrame(chosen.groupby(["world", *by])["value"].mean()).reset_index()
    return [{str(key): value for key, value in line.items()} for line in means.to_dict("records")]
