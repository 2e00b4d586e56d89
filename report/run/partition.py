"""Who holds which class: a picture of clients x classes out of the split manifest's counts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHADES = 12
WIDTH, MOST_HEIGHT = 520, 420  # units of the drawing
ROW, COLUMN = 18, 44  # of a cell, where there are few
LABELLED = 20  # at most this many rows or columns are named one by one


@dataclass(frozen=True)
class Shade:
    """All cells of one shade: an SVG path in units of cells, and the opacity of its fill."""

    path: str
    opacity: float
    victim: bool


@dataclass(frozen=True)
class Partition:
    """The picture.

    Attributes:
        clients: number of rows; classes: number of columns.
        row: height of a cell; column: its width.
        shades: what to draw.
        row_names: (row, name); column_names: (column, name): some of them where there are many.
        most: largest count of a cell.
    """

    clients: int
    classes: int
    row: float
    column: float
    shades: list[Shade]
    row_names: list[tuple[int, str]]
    column_names: list[tuple[int, str]]
    most: int

    @property
    def width(self) -> float:
        """Of the cells together."""
        return self.classes * self.column

    @property
    def height(self) -> float:
        """Of the cells together."""
        return self.clients * self.row


def partition(counts: NDArray[np.int64], victim: int | None, names: Sequence[str]) -> Partition:
    """Return the picture of who holds what.

    Args:
        counts: images int64 [clients, classes].
        victim: partition id whose row is set off, if any.
        names: of the classes.
    """
    clients = len(counts)
    most = int(counts.max())
    # By the root: a client of 12 images a class stays visible beside a victim of 250.
    shade = np.ceil(SHADES * np.sqrt(counts / max(1, most))).astype(np.int64)
    shades = [
        Shade(_path(rows), level / SHADES, is_victim)
        for level in range(1, SHADES + 1)
        for is_victim in (True, False)
        if len(rows := np.argwhere((shade == level) & ((np.arange(clients) == victim)[:, None] == is_victim)))
    ]
    return Partition(
        clients,
        len(names),
        min(ROW, MOST_HEIGHT / clients),
        min(COLUMN, WIDTH / len(names)),
        shades,
        _some([str(client) for client in range(clients)]),
        _some(list(names)),
        most,
    )


def _path(cells: NDArray[np.int64]) -> str:
    return "".join(f"M{column} {row}h1v1h-1z" for row, column in cells.tolist())


def _some(names: list[str]) -> list[tuple[int, str]]:
    step = -(-len(names) // LABELLED)
    return list(enumerate(names))[::step]
