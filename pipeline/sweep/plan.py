"""The ``[sweep]`` table and its points: every combination, named and checked before the first one is run."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from fedinverse.config import Section, is_file_name, parse
from fedinverse.errors import ConfigError
from fedinverse.tables import Table, find_config, flat, laid_over, read_table, with_value
from pipeline.experiment import Experiment, checked
from report.comparison.records import Rank

RESERVED = {
    "name": "the point's name is made of what varies",
    "seed": "list the seeds in sweep.seeds",
    "out": "give --out, or 'out' at the top of the file",
    "sweep": "a sweep has no sweep inside",
}


class Strengths(Section):
    """A defence at several strengths: each is a point, and the comparison looks for those that cost no accuracy."""

    tables: dict[str, Any] = Field(description="tables laid over the experiment, as a variant's are")
    keys: tuple[str, ...] = Field(min_length=1, description="dotted keys of the settings that make the strength")
    values: tuple[tuple[Any, ...], ...] = Field(
        min_length=1, description="weakest first; each a list with one value per key"
    )
    undefended: str = Field(
        "", description="the variant it is held against, such as its network without a defence; empty: the baseline"
    )

    @model_validator(mode="after")
    def _one_value_per_key(self) -> "Strengths":
        wrong = [list(each) for each in self.values if len(each) != len(self.keys)]
        if wrong:
            raise ValueError(f"each of 'values' needs {len(self.keys)}, one per key of 'keys'; {wrong[0]} has not")
        return self


class Sweep(Section):
    """Points = variants x grid values, and every strength of every defence; each is run with every seed."""

    seeds: tuple[int, ...] = Field((), description="seeds of every point; empty: the file's own seed")
    grid: dict[str, Any] = Field(
        default_factory=dict, description="dotted key -> list of values, each in place of the file's; all combinations"
    )
    variants: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="name -> tables laid over the experiment; each is run"
    )
    strengths: dict[str, Strengths] = Field(
        default_factory=dict, description="name -> a defence at several strengths, compared where accuracy is matched"
    )
    baseline: str = Field("", description="the point that others are compared with; empty: the first")


def sweep_of(table: Table, origin: str) -> Sweep:
    """Read ``[sweep]``, with ``[[sweep.variants]]`` (each with a ``name``) for ``[sweep.variants.NAME]``.

    Raises:
        ConfigError: no such table, or a wrong one; names file, key and fix.
    """
    if "sweep" not in table:
        raise ConfigError(f"{origin}: has no table [sweep]; add one, or run it with 'fedinverse run'")
    asked = table["sweep"]
    if isinstance(asked, dict) and isinstance(asked.get("variants"), list):
        asked = asked | {"variants": _named(asked["variants"], origin)}
    return parse(Sweep, asked, "sweep", origin)


def _named(variants: list[Any], origin: str) -> dict[str, Any]:
    names = [variant.get("name") if isinstance(variant, dict) else None for variant in variants]
    for number, name in enumerate(names):
        if not isinstance(name, str) or names.count(name) > 1 or not is_file_name(name):
            raise ConfigError(f"{origin}: 'sweep.variants.{number}' needs a 'name' of its own (letters, digits, . - _)")
    return {
        str(name): {key: value for key, value in variant.items() if key != "name"}
        for name, variant in zip(names, variants, strict=True)
    }


def axes_of(grid: Table, origin: str) -> Table:
    """Return dotted key -> values; ``model.width = [1, 2]`` and ``"model.width" = [1, 2]`` are the same.

    Raises:
        ConfigError: a value is no list, or an empty one.
    """
    axes = flat(grid)
    for key, values in axes.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{origin}: 'sweep.grid.{key}' must be a list of at least one value")
    return axes


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        label: what varies, the same for every seed.
        table: its whole configuration; ``out`` is the sweep's directory, ``name`` the label and the seed.
        experiment: the same, checked.
        rank: which strength of which defence it is; None: it is none of ``[sweep.strengths]``.
    """

    label: str
    table: Table
    experiment: Experiment
    rank: Rank | None = None

    @property
    def path(self) -> Path:
        """Its run directory."""
        return (Path(self.experiment.out) / self.experiment.name).resolve()


@dataclass(frozen=True)
class Plan:
    """A sweep.

    Attributes:
        path: its directory, ``<out>/<name>``.
        points: in the order in which they are run: all points of the first seed, then of the next.
        baseline: label of the point that the others are compared with.
    """

    path: Path
    points: tuple[Point, ...]
    baseline: str


def load_plan(name: str, assignments: Sequence[str] = (), out: Path | None = None) -> Plan:
    """Read a sweep's file and check every point of it.

    Args:
        name: path of a TOML file, or the name of one in ``configs/``.
        assignments: ``section.key=value`` overrides of what all points share, or of ``sweep`` itself.

    Raises:
        ConfigError: one message with the problems of all points.
    """
    path = find_config(name)
    table = read_table(path, list(assignments))
    if out is not None:
        table["out"] = str(out)
    sweep = sweep_of(table, str(path))
    shared = {key: value for key, value in table.items() if key != "sweep"}
    title = shared.get("name")
    if not isinstance(title, str) or not title:
        raise ConfigError(f"{path}: key 'name' is required: the sweep's directory is <out>/<name>")
    directory = (Path(shared.get("out", Experiment.model_fields["out"].default)) / title).resolve()
    strengths = dict(_strengths(sweep, str(path)))
    sweep = sweep.model_copy(
        update={"variants": sweep.variants | {label: each for label, (each, _) in strengths.items()}}
    )
    variations = dict(_variations(shared, sweep, str(path)))
    if sweep.baseline and sweep.baseline not in variations:
        raise ConfigError(f"{path}: 'sweep.baseline' is '{sweep.baseline}'; the points are {', '.join(variations)}")
    ranks = {label: rank for label, (_, rank) in strengths.items()}
    points, problems = [], []
    for seed in sweep.seeds or (shared.get("seed", 0),):
        for label, varied in variations.items():
            called = "-".join(filter(None, [label, f"seed{seed}"]))
            whole = {**varied, "seed": seed, "out": str(directory), "name": called}
            where = f"{path}, point '{label}'" if label else str(path)
            try:
                points.append(Point(label, whole, checked(whole, where), ranks.get(label)))
            except ConfigError as error:
                problems += str(error).splitlines()
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    return Plan(directory, tuple(points), sweep.baseline or next(iter(variations)))


def _strengths(sweep: Sweep, origin: str) -> Iterator[tuple[str, tuple[Table, Rank]]]:
    """Yield (label, (tables, rank)) of every strength of every defence, weakest first."""
    if sweep.strengths and sweep.grid:
        raise ConfigError(f"{origin}: 'sweep.strengths' and 'sweep.grid' exclude each other; write a sweep of each")
    for name, each in sweep.strengths.items():
        undefended = each.undefended or sweep.baseline
        if undefended not in sweep.variants:
            raise ConfigError(
                f"{origin}: 'sweep.strengths.{name}' is held against '{undefended}', which is no variant; name one of "
                f"{', '.join(sweep.variants) or '[sweep.variants]'} in 'undefended', or as 'sweep.baseline'"
            )
        for number, values in enumerate(each.values):
            table: Table = each.tables
            for key, value in zip(each.keys, values, strict=True):
                table = with_value(table, key.split("."), value, f"{origin}: 'sweep.strengths.{name}.keys', {key}")
            label = "-".join([name, *(_plain(str(value)) for value in values)])
            if label in sweep.variants:
                raise ConfigError(f"{origin}: two points of the sweep are called '{label}'; rename a variant")
            yield label, (table, Rank(name, number, undefended))


def _variations(shared: Table, sweep: Sweep, origin: str) -> Iterator[tuple[str, Table]]:
    """Yield (label, table): every variant with every combination of the grid's values."""
    axes = axes_of(sweep.grid, origin)
    for key in [*axes, *(key for variant in sweep.variants.values() for key in variant)]:
        if key.split(".")[0] in RESERVED:
            raise ConfigError(f"{origin}: 'sweep' cannot vary '{key}': {RESERVED[key.split('.')[0]]}")
    labels: set[str] = set()
    for variant, changes in (sweep.variants or {"": {}}).items():
        for chosen in itertools.product(*(enumerate(values) for values in axes.values())):
            table = laid_over(shared, changes)
            parts = [_plain(variant)] if variant else []
            for (key, values), (number, value) in zip(axes.items(), chosen, strict=True):
                table = with_value(table, key.split("."), value, f"{origin}: 'sweep.grid.{key}'")
                parts.append(f"{_short(key, axes)}-{_text(value, values, number)}")
            label = "-".join(parts)
            if label in labels:
                raise ConfigError(f"{origin}: two points of the sweep are called '{label}'; make their values differ")
            labels.add(label)
            yield label, table


def _short(key: str, axes: Table) -> str:
    ends = [other.rpartition(".")[2] for other in axes]
    last = key.rpartition(".")[2]
    return last if ends.count(last) == 1 else key


def _text(value: Any, values: list[Any], number: int) -> str:
    """Return a value as part of a directory's name; of a list of tables, only its position tells."""
    if any(isinstance(each, dict | list) for each in values):
        return str(number)
    return _plain(str(value).lower() if isinstance(value, bool) else str(value))


def _plain(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text)
