"""Who holds which class, clients x classes out of the split manifest: a drawing for the page, and files of the run."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedinverse.run import Run
from fedinverse.split import holdings
from fedinverse.storage import atomic_write

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


NAMED = 40  # at most this many clients or classes are named one by one


def write_partition(run: Run) -> None:
    """Write both files into the run directory, unless they are there: the split manifest never changes.

    The table has a row per client: its role, its images in all, and its images of every class.
    """
    picture = run.files.partition_picture  # written last
    if picture.exists():
        return
    counts = holdings(run.split, run.population.clients, len(run.class_names))
    roles = [run.population.role_of(client) for client in range(len(counts))]
    table = pd.DataFrame(counts, columns=list(run.class_names))
    table.insert(0, "client", np.arange(len(counts)))
    table.insert(1, "role", roles)
    table.insert(2, "images", counts.sum(1))
    atomic_write(run.files.partition_table, table.to_csv(index=False))
    atomic_write(picture, _picture(counts, roles, run.class_names))


def _picture(counts: NDArray[np.int64], roles: Sequence[str], classes: tuple[str, ...]) -> bytes:
    from matplotlib.figure import Figure

    clients = len(counts)
    figure = Figure(figsize=(8, min(9.0, 2.0 + 0.22 * clients)), layout="constrained")
    grid, bars = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    # By the root: a client with 12 images of a class stays visible beside a victim with 250.
    mesh = grid.imshow(np.sqrt(counts), aspect="auto", cmap="Greys", interpolation="nearest", vmin=0)
    colours = {"honest": "0.6", "victim": "#c23b22", "attacker": "#1f5fa8"}
    bars.barh(np.arange(clients), counts.sum(1), color=[colours[role] for role in roles])
    grid.set_xlabel("class")
    grid.set_ylabel("client")
    bars.set_xscale("log")
    bars.set_xlabel("images (red: victim, blue: attacker)" if set(roles) != {"honest"} else "images")
    if clients <= NAMED:
        grid.set_yticks(np.arange(clients))
    if len(classes) <= NAMED:
        grid.set_xticks(np.arange(len(classes)), classes, rotation=90 if max(map(len, classes)) > 2 else 0)
    scale = figure.colorbar(mesh, ax=bars, label="images of the class")
    ticks = np.unique(np.linspace(0, int(np.sqrt(counts.max())), 5).round() ** 2)
    scale.set_ticks(np.sqrt(ticks).tolist(), labels=[f"{tick:.0f}" for tick in ticks])
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
