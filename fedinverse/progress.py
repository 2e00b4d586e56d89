"""How long work is told of: whoever does it calls a function, whoever asked for it shows what it says, or nothing."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all)."""


def silent(what: str, done: int, total: int) -> None:
    """Report no progress."""
    del what, done, total
