"""What a process spent its time on: the functions that cProfile saw, as plain rows that add up over processes.

Rows are JSON. cProfile's own dumps are marshal, which is no more to be trusted in a file than pickle.
"""

import cProfile
import pstats
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedinverse.house import HOME
from fedinverse.storage import write_json

Row = dict[str, Any]
_SUMS = ("calls", "own_seconds", "with_callees_seconds")


@contextmanager
def profiled(directory: Path | None, role: str) -> Iterator[None]:
    """Run the body under cProfile and leave its rows in ``directory`` for ``role``; None: just run it."""
    if directory is None:
        yield
        return
    profiler = cProfile.Profile()
    try:
        with profiler:
            yield
    finally:
        leave(directory, role, profiler)


def leave(directory: Path, role: str, profiler: cProfile.Profile) -> None:
    """Write the rows of ``profiler`` as one more process of ``role``."""
    write_json(directory / f"{role}-{uuid.uuid4().hex}.json", rows_of(profiler))


def rows_of(profiler: cProfile.Profile) -> list[Row]:
    """Return every function that was called: where it is, calls, seconds in it and with what it called."""
    stats: dict[Any, Any] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    return [
        {
            "function": name,
            "where": f"{_short(file)}:{line}" if line else "built in",
            "calls": calls,
            "own_seconds": alone,
            "with_callees_seconds": whole,
        }
        for (file, line, name), (_, calls, alone, whole, _) in stats.items()
    ]


def added(processes: Iterable[list[Row]]) -> list[Row]:
    """Return the rows of several processes as one list, each function once."""
    rows_by_function: dict[tuple[str, str], Row] = {}
    for row in (row for rows in processes for row in rows):
        known = rows_by_function.setdefault((row["where"], row["function"]), row | dict.fromkeys(_SUMS, 0))
        known |= {key: known[key] + row[key] for key in _SUMS}
    return list(rows_by_function.values())


def hottest(rows: list[Row], count: int) -> list[Row]:
    """Return the ``count`` rows with the most seconds of their own, rounded to milliseconds."""
    chosen = sorted(rows, key=lambda row: row["own_seconds"], reverse=True)[:count]
    return [row | {key: round(row[key], 3) for key in _SUMS} for row in chosen]


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(HOME)) if path.is_relative_to(HOME) else "/".join(path.parts[-3:])
