"""Tables and panels: what every page, terminal and file shows of figures."""

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


@dataclass(frozen=True)
class Panel:
    """A part of a page.

    Attributes:
        text: what a reader takes away.
        tables: the most telling first.
        pictures: (caption, alternative text, png).
        remark: what must be known beside it; empty: nothing.
    """

    text: str
    tables: Sequence[Table]
    pictures: Sequence[tuple[str, str, bytes]] = ()
    remark: str = ""
