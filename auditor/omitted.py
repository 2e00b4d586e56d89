"""What stands in place of a figure that cannot be had: the reason. Never a fake number."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Omitted:
    """A figure that was not computed.

    Attributes:
        reason: one clause that says why, for the report.
    """

    reason: str

    def __str__(self) -> str:
        return f"omitted: {self.reason}"
