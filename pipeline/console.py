"""What the terminal shows: the threat model, live progress, tables."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from fedinverse.run import Run

console = Console(highlight=False)


def show_threat_model(run: Run) -> None:
    """Print who holds what and what the attacker sees, before anything starts."""
    population, split, names = run.population, run.split, run.class_names
    victim = ", ".join(names[label] for label in population.victim_classes)
    held = split[split["part"] == "train"].groupby("client").size()
    others = held.drop([population.victim], errors="ignore")
    public = run.pools["public"].about
    federation = run.table["federation"]
    cohorts = "; ".join(
        f"{cohort['defence']} on {cohort['clients'] or format(cohort['fraction'], '.0%')}" for cohort in run.table["cohorts"]
    )
    lines = [
        f"[b]Federation[/b]  {population.clients} clients, {federation['rounds']} rounds, "
        f"{federation['fraction_train']:.0%} train per round, model {run.model.name} (width {run.model.width:g})",
        f"[b]Victim[/b]      client {population.victim}: {int(held[population.victim])} images, the only one with "
        f"classes {victim}",
        f"[b]Others[/b]      {int(others.min())} to {int(others.max())} images each, none of a victim class; "
        f"defences: {cohorts or 'none'}",
        f"[b]Attacker[/b]    client{'s' if population.malicious > 1 else ''} "
        f"{', '.join(map(str, population.attackers)) or '(none)'}: trains honestly, keeps every model it is sent "
        "(train and evaluate messages), inverts offline",
        f"[b]It sees[/b]     the weights, its own shard, the list of classes and {public['count']} public images "
        f"({public['source']}); no private image, no other client's update",
        f"[b]Auditor[/b]     vault {int((split['part'] == 'vault').sum())} and reserve "
        f"{int((split['part'] == 'reserve').sum())} images that no client holds",
    ]
    if run.table["data"]["allow_overlap"]:
        lines.append("[b yellow]Overlap[/b yellow]     public and victim classes may overlap: allowed by data.allow_overlap")
    console.print(Panel("\n".join(lines), title="Threat model", title_align="left", border_style="cyan"))


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
