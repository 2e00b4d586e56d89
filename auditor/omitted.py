"""What stands in place of a figure that cannot be had: the reason. Never a fake number."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Omitted:
    """A figure that was not computed.

    Attributes:
        reason: one clause that says why, for the report.
    """

    reason: str

    def __str__(self) -> str:
        return f"omitted: {self.reason}"


def unless_omitted(figure: Callable[..., T | Omitted], *values: object) -> T | Omitted:
    """Return ``figure`` of ``values``; the first of them that is omitted; or why ``figure`` cannot be had of them.

    A ``ValueError`` of ``figure`` says why: its values have nothing in common.
    """
    for value in values:
        if isinstance(value, Omitted):
            return value
    try:
        return figure(*values)
    except ValueError as error:
        return Omitted(str(error))
