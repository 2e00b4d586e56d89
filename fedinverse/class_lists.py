"""Lists of classes in a configuration: by number, in ranges ``"0-299"``, or by name, which the private source knows."""

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator

from fedinverse.errors import ConfigError
from fedinverse.folders import spelling
from fedinverse.registry import nearest
from fedinverse.tables import Table

_RANGE = re.compile(r"(\d{1,7})-(\d{1,7})")


def _counted(classes: Any) -> Any:
    """Replace every range in a list of classes, ``"0-299"``, by its numbers."""
    if not isinstance(classes, list):
        return classes
    numbers: list[Any] = []
    for entry in classes:
        ends = _RANGE.fullmatch(entry) if isinstance(entry, str) else None
        numbers += range(int(ends[1]), int(ends[2]) + 1) if ends else [entry]
        if ends and int(ends[2]) < int(ends[1]):
            raise ValueError(f"range '{entry}' runs backwards; write it as \"{ends[2]}-{ends[1]}\"")
    return tuple(numbers)  # what comes out of a validator must be of the field's own type


Classes = Annotated[tuple[int, ...], BeforeValidator(_counted)]
"""Classes by number; a file may write ranges, ``["0-299", 305]``."""

# (section, its list of class numbers, its list of class names)
_CLASS_LISTS = (("population", "victim_classes", "victim_names"), ("attacker", "classes", "class_names"))


def names_apart(table: Table) -> Table:
    """Return a configuration whose lists of classes hold numbers only, the names in a list of their own.

    What looks like a range waits among the names: a class may be called "3-4", and only the source knows.
    """
    result = dict(table)
    for section, numbers, names in _CLASS_LISTS:
        part = table.get(section)
        listed = part.get(numbers) if isinstance(part, dict) else None
        if isinstance(part, dict) and isinstance(listed, list):
            called = [entry for entry in listed if isinstance(entry, str) and not _runs_backwards(entry)]
            kept = [entry for entry in listed if entry not in called]
            result[section] = part | {numbers: kept, names: [*part.get(names, ()), *called]} if called else part
    return result


def names_numbered(table: Table, known: Sequence[str]) -> Table:
    """Return a checked configuration with the number of every class that it names; numbers beyond them are refused.

    Args:
        known: the name of every class of the private source.

    Raises:
        ConfigError: a name is none of them, or of two (names the nearest); a range is also a class's name; or there
            are not so many classes.
    """
    result = dict(table)
    for section, numbers, names in _CLASS_LISTS:
        part = table.get(section, {})
        beyond = [number for number in part.get(numbers, ()) if number >= len(known)]
        if beyond:
            raise ConfigError(
                f"{section}.{numbers}: {beyond[:5]} not among the {len(known)} classes of the private source "
                f"(0 to {len(known) - 1})"
            )
        if part.get(names):
            numbered = [each for name in part[names] for each in _numbers_of(name, known, f"{section}.{numbers}")]
            result[section] = part | {numbers: sorted({*part[numbers], *numbered}), names: []}
    return result


def _runs_backwards(entry: str) -> bool:
    ends = _RANGE.fullmatch(entry)
    return ends is not None and int(ends[2]) < int(ends[1])


def _numbers_of(entry: str, known: Sequence[str], where: str) -> Sequence[int]:
    """Return the classes that ``entry``, a name or a range, stands for."""
    ends = _RANGE.fullmatch(entry)
    if ends is None:
        return [_number_of(entry, known, where)]
    meant = range(int(ends[1]), int(ends[2]) + 1)
    possible = meant[-1] < len(known)
    if entry not in known and not possible:
        raise ConfigError(
            f"{where}: '{entry}' goes beyond the {len(known)} classes of the private source (0 to {len(known) - 1})"
        )
    if entry in known and possible:
        number = known.index(entry)
        raise ConfigError(
            f"{where}: '{entry}' is the name of class {number}, and a range of class numbers; write {number} for the "
            f"class, or the numbers {list(meant)[:5]}{' and so on' if len(meant) > 5 else ''} one by one"
        )
    return meant if possible else [known.index(entry)]


def _number_of(name: str, known: Sequence[str], where: str) -> int:
    fitting = [number for number, other in enumerate(known) if other == name]
    fitting = fitting or [number for number, other in enumerate(known) if spelling(other) == spelling(name)]
    if not fitting:
        raise ConfigError(f"{where}: the private source has no class '{name}'{nearest(name, known)}")
    if len(fitting) > 1:
        raise ConfigError(f"{where}: '{name}' could be any of the classes {fitting}; write the number")
    return fitting[0]
