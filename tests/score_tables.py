"""Synthetic score tables whose arms have the mean success that a test wants, and what is concluded from them."""

import numpy as np
import pandas as pd

from auditor.arms import ARMS
from auditor.judgement import judge
from auditor.leakage import FURTHER, Leakage, measure
from auditor.settings import Primary
from auditor.table import cells_of_attack
from auditor.verdict import (
    Verdict,
)

METRIC = "attack-accuracy"
QUIET = {"A": 0.1, "B0": 0.1, "B1": 0.1, "B2": 0.1, "B3": 0.1, "B4": 0.1, "B5": 0.02, "CEIL": 0.95}
LEAK = QUIET | {"A": 0.8}
PRIMARY = Primary(metric=METRIC)
LEARNED = {1: 0.9, 5: 0.9}


def rows(
    means: dict[str, float],
    *,
    classes: int = 25,
    seeds: int = 1,
    server_round: int = 5,
    attack: str = "gmi",
    metric: str = METRIC,
    draw: int = 0,
) -> pd.DataFrame:
    """A score table: five reconstructions per class, each a success with the arm's mean."""
    random = np.random.default_rng(draw)
    return pd.DataFrame(
        [
            {
                "seed": seed,
                "world": "without_victim" if ARMS[arm].lacks_victim else "with_victim",
                "round": server_round,
                "arm": arm,
                "attack": attack,
                "label": label,
                "metric": metric,
                "value": random.binomial(5, mean) / 5,
                "count": 5,
            }
            for seed in range(seeds)
            for arm, mean in means.items()
            for label in range(classes)
        ]
    )


def verdict(table: pd.DataFrame, primary: Primary = PRIMARY, **change: dict[int, float]) -> Verdict:
    return judge(table, primary, change.get("accuracy", LEARNED), classes=50)


def measured(table: pd.DataFrame) -> Leakage:
    return measure(cells_of_attack(table, "gmi", 5, METRIC, FURTHER), 0.15)
