"""A comparison as one tidy table, for programs."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from auditor.omitted import Omitted
from auditor.statistics import Estimate
from auditor.verdict import Missing
from report.comparison.differences import Difference
from report.comparison.figures import GroupFigures, time_to_leak
from report.comparison.matched import Matched


def tidy(
    figures: Sequence[GroupFigures], differences: Sequence[Difference], baseline: str, equal: Sequence[Matched] = ()
) -> pd.DataFrame:
    """Return everything as one row per group x quantity.

    Columns: ``group``, ``quantity``, ``value``, ``low``, ``high``, ``p``, ``p_holm``, ``baseline`` (of a difference),
    ``matched`` (of a difference: accuracies within one point), ``seeds``, ``omitted`` (why there is no value) and
    ``overlap`` (whether public and victim classes were allowed to overlap in a run it rests on).
    ``low`` and ``high`` bound the 95 % interval; of accuracy, seconds and epsilon the range over seeds.
    """
    rows: list[dict[str, Any]] = []
    overlap = {each.group.label: each.group.overlap for each in figures}
    for each in figures:
        named: dict[str, Any] = {
            "accuracy": each.accuracy,
            "victim-accuracy": each.victim_accuracy,
            **each.main.arms,
            "leakage": each.main.leakage,
            "corrected": each.main.corrected,
            "normalised": each.main.normalised,
            "seconds-per-round": each.seconds_per_round,
            "epsilon": each.epsilon,
            "central-epsilon": each.central_epsilon,
            "epsilon-bound": each.bound,
            "time-to-leak": time_to_leak(each),
        }
        about = {"group": each.group.label, "seeds": len(each.group.seeds), "overlap": each.group.overlap}
        rows += [{**about, "quantity": quantity, **_columns(figure)} for quantity, figure in named.items()]
    rows += [
        {
            "group": each.group,
            "seeds": each.seeds,
            "quantity": f"difference of {each.quantity}",
            **_columns(each.estimate),
            "p": each.estimate.p if isinstance(each.estimate, Estimate) else None,
            "p_holm": each.p_holm,
            "baseline": baseline,
            "matched": each.matched,
            "overlap": overlap[each.group] or overlap[baseline],
        }
        for each in differences
    ]
    rows += [
        {
            "group": row.chosen.label if row.chosen else row.defence,
            "seeds": row.chosen.seeds if row.chosen else 0,
            "quantity": "leakage at matched accuracy",
            **_columns(row.leakage),
            "p": row.leakage.p if isinstance(row.leakage, Estimate) else None,
            "p_holm": row.p_holm,
            "baseline": row.undefended,
            "matched": row.chosen is not None,
            "overlap": any(overlap.values()),
        }
        for row in equal
    ]
    names = ["group", "quantity", "value", "low", "high", "p", "p_holm", "baseline", "matched", "seeds", "omitted"]
    names.append("overlap")
    kinds = {**dict.fromkeys(("value", "low", "high", "p", "p_holm"), "float64"), "matched": "boolean"}
    return pd.DataFrame(rows, columns=names).astype(kinds)


def _columns(figure: Any) -> dict[str, Any]:
    if isinstance(figure, Omitted):
        return {"omitted": figure.reason}
    if isinstance(figure, Missing):
        return {"omitted": figure.omitted}
    if isinstance(figure, int):
        return {"value": figure}
    return {"value": figure.value, "low": figure.low, "high": figure.high}
