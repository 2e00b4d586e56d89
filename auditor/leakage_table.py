"""The verdict's figures as a tidy table: one row per attack x round x figure, with interval, or why it is missing."""

from typing import Any

import pandas as pd

from auditor.verdict import Interval, Missing, Verdict

COLUMNS = ("attack", "round", "figure", "value", "low", "high", "omitted")
OF_POINT = ("leakage", "corrected", "normalised", "p", "p_holm", "minimum_detectable_effect")


def leakage_table(verdict: Verdict) -> pd.DataFrame:
    """Return columns ``COLUMNS``: the figures ``OF_POINT`` of every point, and every attack's ``time-to-leak``.

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
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _cells(figure: Interval | Missing | float) -> dict[str, Any]:
    if isinstance(figure, Missing):
        return {"omitted": figure.omitted}
    if isinstance(figure, Interval):
        return {"value": figure.value, "low": figure.low, "high": figure.high, "omitted": ""}
    return {"value": float(figure), "omitted": ""}
