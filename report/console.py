"""What the terminal shows: the threat model, live progress, tables."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from fedinverse.run import Run

console = Console(highlight=False)


def show_threat_model(run: Run) -> None:
    """Print who holds what and what the attacker sees, before anything starts."""
    from report.threat import threat_model  # it knows Flower's settings; a standalone attack must not need Flower

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    for who, what in threat_model(run):
        grid.add_row(who, what)
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
    with Progress(*columns, console=console, transient=True) as progress:
        yield progress


def table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print a table, numbers to the right."""
    shown = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    for number, name in enumerate(header):
        shown.add_column(name, justify="left" if number == 0 else "right")
    for row in rows:
        shown.add_row(*row)
    console.print(shown)


def percent(value: float | None) -> str:
    """Return a share as text."""
    return "–" if value is None else f"{100 * value:.1f} %"
