"""Configuration files, TOML, as tables: looked up by name, laid over what they extend, with single values set."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedinverse.errors import ConfigError
from fedinverse.house import CONFIGS
from fedinverse.registry import nearest
from fedinverse.words import TEXT

Table = dict[str, Any]


def find_config(name: str, heir: Path | None = None) -> Path:
    """Return the file called ``name``: a path, or the name of a file in ``configs/``.

    Args:
        name: as the user wrote it.
        heir: the file that ``extends`` it: a relative path is looked for beside that one first, wherever the user is.

    Raises:
        ConfigError: there is none; names the nearest one.
    """
    beside = [heir.parent / name] if heir else []
    for path in (*beside, Path(name), CONFIGS / name, CONFIGS / f"{name}.toml"):
        with suppress(OSError, ValueError):  # longer than a name can be, or of characters that none can have
            if path.is_file():
                return path
    names = [path.relative_to(CONFIGS).with_suffix("").as_posix() for path in sorted(CONFIGS.rglob("*.toml"))]
    where = f"{heir}: 'extends': " if heir else ""
    raise ConfigError(f"{where}config '{name}' not found{nearest(name.removesuffix('.toml'), names, 'in configs/')}")


def read_table(path: Path, assignments: list[str] | tuple[str, ...] = ()) -> Table:
    """Read a TOML file, lay it over the one it ``extends``, and apply ``section.key=value`` assignments in order.

    A value is read as TOML (``3``, ``0.5``, ``true``, ``[1, 2]``); what is not TOML is a string.

    Raises:
        ConfigError: unreadable file, invalid TOML (with its line), files that extend each other, malformed assignment.
    """
    return assigned(_with_base(path, ()), assignments)


def _with_base(path: Path, heirs: tuple[Path, ...]) -> Table:
    try:
        if not path.is_file():
            raise ConfigError(f"{path}: is no regular file")
        table: Table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is no UTF-8 text; save the file as UTF-8") from error
    except (OSError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error
    base = table.pop("extends", None)
    if base is None:
        return table
    if path.resolve() in heirs:
        raise ConfigError(f"{path}: 'extends' leads back to this file")
    if not isinstance(base, str):
        raise ConfigError(f"{path}: 'extends' must name one config")
    return laid_over(_with_base(find_config(base, path), (*heirs, path.resolve())), table)


def laid_over(base: Table, changes: Table) -> Table:
    """Return ``base`` with ``changes`` laid over it, table by table; a list replaces a list."""
    tables = (key for key, value in changes.items() if isinstance(value, dict) and isinstance(base.get(key), dict))
    return {**base, **changes, **{key: laid_over(base[key], changes[key]) for key in tables}}


def flat(table: Mapping[str, Any], prefix: str = "") -> Table:
    """Return a table's tables as one, keyed by dotted path."""
    values: Table = {}
    for key, value in table.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return values


def assigned(table: Table, assignments: Iterable[str]) -> Table:
    """Return ``table`` with every ``section.key=value`` applied, in order.

    Raises:
        ConfigError: an assignment is malformed, or its key leads nowhere; names it.
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        parts = [part.strip() for part in key.split(".")]
        if not equals or not all(parts):
            raise ConfigError(f"--set {assignment}: write it as section.key=value, e.g. --set training.epochs=2")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            value = text.strip()
        try:
            table = with_value(table, parts, value, f"--set {assignment}")
        except RecursionError as error:
            raise ConfigError(f"--set {assignment[:TEXT]}: no key is so deep ({error})") from None
    return table


def with_value(place: Any, parts: Sequence[str], value: Any, where: str) -> Any:
    """Return ``place``, tables and lists, with ``value`` at the dotted key ``parts``; a number indexes a list.

    Raises:
        ConfigError: the key leads through a plain value, or beyond a list.
    """
    if not parts:
        return value
    head, *rest = parts
    if isinstance(place, dict):
        return {**place, head: with_value(place.get(head, {}), rest, value, where)}
    if not isinstance(place, list):
        raise ConfigError(f"{where}: there is no '{head}' to set: what it would be in is a value, not a section")
    if not head.isdigit() or int(head) >= len(place):
        raise ConfigError(f"{where}: there is no '{head}' to set: it must be an index from 0 to {len(place) - 1}")
    return [with_value(item, rest, value, where) if i == int(head) else item for i, item in enumerate(place)]
