"""The ``[sweep]`` table of a configuration: what varies from point to point."""

from typing import Any

from pydantic import Field, model_validator

from fedinverse.config import Section, Table, flat, is_file_name, parse
from fedinverse.errors import ConfigError


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
