"""A table as every page, terminal and file shows it: text in cells, and what must be said of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

FOLD = 24  # rows beyond which a page folds it away


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        caption: what it shows.
        header: one text per column, the first names the rows.
        rows: cells as text, as many in each as the header has.
        columns: what the columns say that do not say it themselves.
        notes: what to know of it, and why a figure is missing.
    """

    caption: str
    header: list[str]
    rows: list[list[str]]
    columns: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def folded(self) -> bool:
        """Whether it is too long to stand open on a page."""
        return len(self.rows) > FOLD
