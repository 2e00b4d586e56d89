"""Which runs belong together: those that differ in nothing but their seed; and which may not be compared at all."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from auditor.marks import OVERLAP, overlaps
from fedinverse.errors import ConfigError
from fedinverse.split import held_by
from fedinverse.tables import Table, flat
from report.comparison.records import Record

# Where and by how many processes a run was made changes no result; a seed is what runs are paired by.
IRRELEVANT = ("name", "seed", "attacker.processes", "attacker.threads", "attacker.device")
# With another of these, a score is of other images, or another score.
FIXED = (
    "data.private",
    "data.private_limit",
    "split",
    "population.victim",
    "population.victim_classes",
    "audit.primary.metric",
)
# With another of these, a difference may be the instrument's: shown, and marked.
MARKED = {
    "audit.evaluator": "the evaluators differ: a difference may be theirs",
    "data.public": "the public images differ, and with them what the open evaluators learned as none of the classes: "
    "read attack-accuracy, too",
    "audit.primary.attack": "the primary attacks differ",
    "audit.primary.round": "the primary rounds differ",
    "attacker.restarts": "the numbers of reconstructions per class differ",
}


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only.

    Attributes:
        values: varying key -> value, of the keys that groups are told apart by.
        records: the runs, by seed.
    """

    label: str
    values: Table
    records: tuple[Record, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of its runs, ascending."""
        return tuple(record.seed for record in self.records)

    @property
    def overlap(self) -> bool:
        """Whether public and victim classes were allowed to overlap in one of its runs."""
        return any(overlaps(record.run) for record in self.records)


def grouped(records: Sequence[Record], by: Sequence[str] = ()) -> tuple[Group, ...]:
    """Return the groups, in the order in which their first runs were given.

    Args:
        by: keys, or sections, to tell groups apart by; empty: every key that varies.

    Raises:
        ConfigError: runs that cannot be compared; two runs of one group with the same seed; a key of ``by`` that
            does not vary.
    """
    varying = varying_keys(records)
    check_comparable(records, varying)
    for key in by:
        if not any(_within(each, key) for each in varying):
            raise ConfigError(f"--by {key} does not vary among these runs; what varies: {', '.join(varying) or '–'}")
    columns = {key: values for key, values in varying.items() if not by or any(_within(key, each) for each in by)}
    rows: dict[str, list[int]] = {}
    for number in range(len(records)):
        identity = json.dumps([values[number] for values in columns.values()], sort_keys=True)
        rows.setdefault(identity, []).append(number)
    groups = []
    for numbers in rows.values():
        values = {key: each[numbers[0]] for key, each in columns.items()}
        groups.append((values, sorted((records[number] for number in numbers), key=lambda record: record.seed)))
    labels = labels_of(groups)
    result = tuple(
        Group(label, values, tuple(members)) for label, (values, members) in zip(labels, groups, strict=True)
    )
    for group in result:
        _check_seeds(group, [key for key in varying if key not in columns])
    return result


def varying_keys(records: Sequence[Record]) -> dict[str, list[Any]]:
    """Return every dotted key whose values differ, with the value of every run (None: it has none)."""
    every = [record.run.table.get("attacks", {}) for record in records]
    shared = set.intersection(*(set(attacks) for attacks in every)) if every else set()
    tables = [flat(_with_attacks_named(record.run.table, shared)) for record in records]
    in_order = (key for table in tables for key in sorted(table, key=lambda key: key.split(".")))
    columns = {key: [table.get(key) for table in tables] for key in dict.fromkeys(in_order) if key not in IRRELEVANT}
    return {key: values for key, values in columns.items() if len({json.dumps(value) for value in values}) > 1}


def _with_attacks_named(table: Table, shared: set[str]) -> Table:
    """Return ``table`` with only the attacks that every run has in full; a list of names tells who has which."""
    attacks = table.get("attacks", {})
    return {
        **{key: value for key, value in table.items() if key != "attacks"},
        "attacks": {label: settings for label, settings in attacks.items() if label in shared},
        "attack labels": sorted(attacks),
    }


def _within(key: str, section: str) -> bool:
    return key == section or key.startswith(f"{section}.")


def check_comparable(records: Sequence[Record], varying: dict[str, list[Any]]) -> None:
    """Refuse runs whose figures are not of the same images.

    Raises:
        ConfigError: names the key, or the runs whose split differs.
    """
    paths = [record.run.path.resolve() for record in records]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice:
        raise ConfigError(f"{twice} is given twice; give every run once")
    for key, values in varying.items():
        if any(_within(key, fixed) for fixed in FIXED):
            other = next(number for number, value in enumerate(values) if value != values[0])
            raise ConfigError(
                f"'{key}' is {values[0]} in {records[0].name} and {values[other]} in {records[other].name}: their "
                "figures are not of the same images; compare runs of one victim, split and private source"
            )
    first: dict[int, tuple[Record, dict[str, frozenset[str]]]] = {}
    for record in records:
        images_of_run = _images(record)
        one, known = first.setdefault(record.seed, (record, images_of_run))
        differing = [part for part, images in images_of_run.items() if images != known[part]]
        if differing:
            raise ConfigError(
                f"{one.name} and {record.name} have the same seed but other images in {', '.join(differing)}: their "
                "figures cannot be paired; compare runs of one victim, split and private source"
            )


def _images(record: Record) -> dict[str, frozenset[str]]:
    split, victim = record.run.split, record.run.population.victim
    rows = {"the victim's shard": pd.Series(held_by(split, victim), split.index)} | {
        f"the {part}": split["part"] == part for part in ("vault", "reserve")
    }
    victims = split["label"].isin(record.run.victim_classes)
    return {what: frozenset(split.loc[chosen & victims, "sha256"]) for what, chosen in rows.items()}


def _check_seeds(group: Group, untold: list[str]) -> None:
    for one, other in zip(group.records, group.records[1:], strict=False):
        if one.seed == other.seed:
            hint = f"they differ in {', '.join(untold)}: name one with --by" if untold else "leave one out"
            raise ConfigError(f"{one.name} and {other.name} are the same seed of the same group; {hint}")
        if one.primary.attack != other.primary.attack:
            raise ConfigError(
                f"{one.name} and {other.name} are seeds of one group, but their primary attacks are "
                f"'{one.primary.attack}' and '{other.primary.attack}'; compare runs of one attack"
            )


def marks_of_groups(groups: Sequence[Group]) -> list[str]:
    """Return what a reader must know before believing a comparison of ``groups``."""
    records = [record for group in groups for record in group.records]
    varying = varying_keys(records)
    marks = [text for section, text in MARKED.items() if any(_within(key, section) for key in varying)]
    for field, text in (("attack", MARKED["audit.primary.attack"]), ("round", MARKED["audit.primary.round"])):
        values = sorted({getattr(record.primary, field) for record in records})
        if len(values) > 1:
            marks = [each for each in marks if each != text]
            marks.append(f"{text}: {', '.join(map(str, values))}")
    return [*marks, *overlap_marks(groups)]


def overlap_marks(groups: Sequence[Group]) -> list[str]:
    """Return what must stand beside every figure of groups whose public and victim classes may overlap."""
    marked = [group.label for group in groups if group.overlap]
    return [f"{', '.join(marked)}: {OVERLAP}"] if marked else []


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
