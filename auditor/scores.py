"""The tidy score table: one row per seed x world x round x arm x attack x class x metric."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from auditor.evaluator import Judge
from auditor.evidence import Exhibit

COLUMNS = ["seed", "world", "round", "arm", "attack", "label", "metric", "value", "count"]
ACCURACY, CONFIDENCE, UTILITY = "attack-accuracy", "target-confidence", "utility"


def score(exhibits: Iterable[Exhibit], judge: Judge, seed: int) -> pd.DataFrame:
    """Judge every exhibit, class by class.

    Returns:
        ``attack-accuracy`` (share that E1 assigns to the intended class; failed images miss) and
        ``target-confidence`` (the target's mean probability, the attacker's own view), both in [0, 1].
    """
    rows: list[dict[str, Any]] = []
    for shown in exhibits:
        read = judge.logits(shown.images).argmax(1).cpu()
        right = (read == shown.labels) & ~shown.failed
        base = {
            "seed": seed,
            "world": shown.world,
            "round": shown.round,
            "arm": shown.arm,
            "attack": shown.attack,
        }
        for label in shown.labels.unique().tolist():
            mine = shown.labels == label
            count = int(mine.sum())
            rows += [
                base
                | {
                    "label": label,
                    "metric": ACCURACY,
                    "value": float(right[mine].float().mean()),
                    "count": count,
                },
                base
                | {
                    "label": label,
                    "metric": CONFIDENCE,
                    "value": float(shown.confidence[mine].mean()),
                    "count": count,
                },
            ]
    return pd.DataFrame(rows, columns=COLUMNS)
