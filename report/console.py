"""What the terminal shows: the threat model, live progress, tables."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from fedinverse.run import Run
from fedinverse.words import LONG, plain
from report.table import Table as TextTable
from report.threat import threat_model

console = Console(highlight=False)


def show_threat_model(run: Run) -> None:
    """Print who holds what and what the attacker sees, before anything starts."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    for who, what in threat_model(run):
        grid.add_row(who, escape(what))
    console.print(Panel(grid, title="Threat model", title_align="left", border_style="cyan"))


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Yield a live progress display with elapsed and remaining time."""
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with _Progress(*columns, console=console, transient=True) as progress, progress.beating():
        yield progress


class Bars:
    """A ``fedinverse.progress.Progress`` that keeps one bar per kind of work."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Move the bar of ``what``, which appears when it is first heard of."""
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total)
        self._bar.update(self._tasks[what], completed=done, total=total)


@contextmanager
def bars_when_told() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a ``fedinverse.progress.Progress`` that shows bars from when it is first called on."""
    with ExitStack() as shown:
        bars: list[Bars] = []

        def tell(what: str, done: int, total: int) -> None:
            if not bars:
                bars.append(Bars(shown.enter_context(progress_bar())))
            bars[0](what, done, total)

        yield tell


class _Progress(Progress):
    """A progress display that, where there is no terminal to draw on, prints a line a minute instead."""

    EVERY = 60.0  # seconds
    LOOK = 1.0

    def update(self, task_id: TaskID, *arguments: Any, **values: Any) -> None:
        """Move a task on."""
        super().update(task_id, *arguments, **values)
        self._tell(task_id)

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Look every second whether a line is due, from a thread of its own: a step may take longer than a minute."""
        if self.console.is_terminal:
            yield
            return
        over = threading.Event()

        def look() -> None:
            while not over.wait(self.LOOK):
                for task_id in self.task_ids:
                    self._tell(task_id)

        beat = threading.Thread(target=look, daemon=True)
        beat.start()
        try:
            yield
        finally:
            over.set()
            beat.join()

    def _tell(self, task_id: TaskID) -> None:
        with self._lock:
            task = self._tasks.get(task_id)
            if task is None or task.finished or self.console.is_terminal:
                return
            now = self.get_time()
            if now - task.fields.setdefault("printed", task.start_time or now) < self.EVERY:
                return
            task.fields["printed"] = now
            line = f"  {task.description}"
            if task.total:
                line += f": {task.completed:.0f} of {task.total:.0f}"
            if task.time_remaining is not None:
                line += f", about {timedelta(seconds=round(task.time_remaining))} left"
            elif task.elapsed is not None:
                line += f", for {timedelta(seconds=round(task.elapsed))} so far"
        self.console.print(line, soft_wrap=True)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show that ``what``, of which no part can be counted, goes on."""
    with progress_bar() as bar:
        bar.add_task(what, total=None)
        yield


def say(head: str, text: str = "") -> None:
    """Print ``head`` in bold and ``text`` beside it: brackets stay, addresses are not broken, control characters go."""
    console.print(Text.assemble((plain(head), "bold"), text and f" {plain(text, LONG)}"), soft_wrap=True)


def echo(text: str, style: str = "") -> None:
    """Print ``text`` as it is: brackets stay, paths are not broken."""
    console.print(text, soft_wrap=True, markup=False, style=style or None)


def bullets(texts: Iterable[str], style: str = "") -> None:
    """Print each of ``texts`` as a point of a list."""
    for text in texts:
        echo(f"  - {text}", style)


def show_table(each: TextTable) -> None:
    """Print a table of the report with its notes."""
    table(each.caption, each.header, each.rows)
    bullets(each.notes, "dim")


def table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print a table, numbers to the right; on a terminal too narrow for it, row by row.

    Cells may hold others' words, names of folders among them: control characters are written out.
    """
    header, rows = [plain(name) for name in header], [[plain(cell) for cell in row] for row in rows]
    grid = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    for number, name in enumerate(header):
        grid.add_column(escape(name), justify="left" if number == 0 else "right")
    for row in rows:
        grid.add_row(*map(escape, row))
    unbounded = console.options.update(max_width=10_000)  # a measurement is cut at the width it is told
    if Measurement.get(console, unbounded, grid).maximum <= console.width:
        console.print(grid)
        return
    say(title)
    for first, *cells in rows:
        console.print(f"[b]{escape(first)}[/b]", soft_wrap=True)
        for name, cell in zip(header[1:], cells, strict=True):
            if cell:
                console.print(f"  {name}  {cell}".replace("    ", "  "), markup=False, soft_wrap=True)
