"""What a group is called: a sweep's own name for it, what varies, or the names of its runs."""

from collections.abc import Sequence
from typing import Any

from fedinverse.config import Table
from report.comparison.records import Record

LONGEST = 2  # varying keys in a label


def labels_of(groups: Sequence[tuple[Table, list[Record]]]) -> list[str]:
    """Return a sweep's own names where all have one, else what varies, or where that is long the runs' own names; each
    once."""
    points = [{record.label for record in records} for _, records in groups]
    if all(len(labels) == 1 and "" not in labels for labels in points):
        labels = [next(iter(each)) for each in points]
    elif all(len(values) <= LONGEST for values, _ in groups):
        labels = [", ".join(key_and_value(key, value) for key, value in values.items()) for values, _ in groups]
    else:
        names = [list(dict.fromkeys(str(record.run.table["name"]) for record in records)) for _, records in groups]
        labels = [each[0] if len(each) == 1 else f"{each[0]} … {each[-1]}" for each in names]
    labels = [label or "all runs" for label in labels]
    return [f"{label} ({number})" if labels.count(label) > 1 else label for number, label in enumerate(labels, 1)]


def key_and_value(key: str, value: Any) -> str:
    """Return a varying key and its value for reading."""
    if key == "cohorts":
        return " + ".join(_cohort(cohort) for cohort in value or ()) or "no defence"
    text = ", ".join(map(str, value)) if isinstance(value, list) else "–" if value is None else str(value)
    return f"{key} {text}"


def _cohort(cohort: Table) -> str:
    who = f"clients {cohort['clients']}" if cohort.get("clients") else f"{cohort['fraction']:.0%}"
    settings = ", ".join(f"{key} {value}" for key, value in sorted(cohort.get("settings", {}).items()))
    return f"{cohort['defence']} on {who}" + (f" ({settings})" if settings else "")
