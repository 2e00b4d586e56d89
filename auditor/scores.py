"""The tidy score table: one row per seed x world x round x arm x attack x class x metric (see ``auditor.table``)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from auditor.bench import Bench, inspect
from auditor.evidence import Exhibit
from auditor.metrics.figures import figures_of
from auditor.omitted import Omitted
from auditor.table import COLUMNS
from auditor.verdict import Omission

VERSION = 3  # raise it when a metric gives another figure for the same images: audits are then done again


@dataclass(frozen=True)
class Scored:
    """What an audit could say, and what it could not.

    Attributes:
        table: columns ``auditor.table.COLUMNS``; metrics as in ``auditor.metrics.names``.
        omitted: the figures that are not in the table, by metric and reason.
    """

    table: pd.DataFrame
    omitted: tuple[Omission, ...]


def score(exhibits: Iterable[Exhibit], bench: Bench, seed: int, metrics: Sequence[str] = ()) -> Scored:
    """Judge every exhibit, class by class and as a whole; ``metrics`` names those from outside (``audit.metrics``)."""
    rows: list[dict[str, Any]] = []
    missing: dict[tuple[str, str], list[str]] = {}
    for exhibit in exhibits:
        where = {"seed": seed} | {key: getattr(exhibit, key) for key in ("world", "round", "arm", "attack")}
        seen = inspect(exhibit, bench)
        for each in figures_of(seen, bench, metrics):
            if isinstance(each.value, Omitted):
                missing.setdefault((each.metric, each.value.reason), []).append(exhibit.arm)
            else:
                rows.append(
                    where | {"label": each.label, "metric": each.metric, "value": each.value, "count": each.count}
                )
    omitted = tuple(
        Omission(metric=metric, reason=reason, arms=tuple(sorted(set(arms))), figures=len(arms))
        for (metric, reason), arms in sorted(missing.items())
    )
    return Scored(pd.DataFrame(rows, columns=list(COLUMNS)), omitted)
