"""``fedinverse runs list | show | prune``: what runs there are, what one holds, and the disk space of old ones."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedinverse.errors import StageError
from pipeline.cli.program import Program

if TYPE_CHECKING:
    from fedinverse.run import Run

app = Program(help="List runs, show one, free the disk space of finished ones.")

RunArgument = Annotated[Path, typer.Argument(help="a run directory, e.g. runs/quickstart", metavar="RUN")]
LARGEST = 12  # files shown


@app.command("list")
def list_(
    directory: Annotated[Path, typer.Argument(help="directory of run directories", metavar="[DIR]")] = Path("runs"),
) -> None:
    """List the runs in a directory and below: date, seed, how far each came, its verdict and its size."""
    from fedinverse.disk import in_words, used
    from pipeline.runs import date_of, find_runs, stage_of, verdict_of
    from report.console import console, table

    rows = [
        [
            str(run.path.relative_to(directory)) if run.path != directory else run.path.name,
            date_of(run.path),
            str(run.seed),
            stage_of(run.path),
            verdict_of(run.path),
            in_words(used(run.path)),
        ]
        for run in find_runs(directory)
    ]
    if not rows:
        raise StageError(
            f"{directory} holds no run; give the directory that 'out' names, e.g. fedinverse runs list runs"
        )
    table(f"{len(rows)} runs", ["", "last change", "seed", "stage", "verdict", "size"], rows)
    console.print("[dim]'fedinverse runs show RUN' tells more[/dim]")


@app.command()
def show(directory: RunArgument) -> None:
    """Show one run: threat model, stages and their times, verdict, and its largest files."""
    from fedinverse.disk import in_words
    from pipeline.profile import stored_times
    from pipeline.runs import files_of, stage_of, verdict_of
    from report.console import console, show_threat_model, table

    run = _opened(directory)
    show_threat_model(run)
    console.print(f"[b]stage[/b]  {stage_of(run.path)}    [b]verdict[/b]  {verdict_of(run.path)}")
    times = stored_times(run.files.times)
    if times:
        table("Wall time", ["stage", "seconds"], [[stage, f"{seconds:.0f}"] for stage, seconds in times.items()])
    files = files_of(run.path)
    rows = [[str(path.relative_to(run.path)), in_words(size)] for path, size in files[:LARGEST]]
    title = f"{len(files)} files, {in_words(sum(size for _, size in files))}; the largest"
    table(title, ["file", "size"], rows)


@app.command()
def prune(
    directories: Annotated[list[Path], typer.Argument(help="finished runs", metavar="RUN...")],
    keep_checkpoints: Annotated[bool, typer.Option("--keep-checkpoints", help="keep every round's model")] = False,
    keep_captures: Annotated[bool, typer.Option("--keep-captures", help="keep all the attacker received")] = False,
    keep_priors: Annotated[bool, typer.Option("--keep-priors", help="keep priors trained for these models")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="do it; without, only what would go is listed")] = False,
) -> None:
    """Remove models of rounds that no inversion used, and priors that no other run needs.

    Never removed: verdict, report, scores, reconstructions, ledger.
    """
    from fedinverse.disk import in_words
    from pipeline.prune import KINDS, removable, remove
    from report.console import console, table

    chosen = zip(KINDS, (keep_checkpoints, keep_captures, keep_priors), strict=True)
    keep = [kind for kind, kept in chosen if kept]
    removed = [(directory, removable(_opened(directory), keep)) for directory in directories]
    rows = []
    for directory, files in removed:
        sizes = {kind: [each.size for each in files if each.kind == kind] for kind in KINDS}
        columns = [f"{len(each)}, {in_words(sum(each))}" if each else "–" for each in sizes.values()]
        rows.append([str(directory), *columns, in_words(sum(each.size for each in files))])
    table("Removed" if delete else "Would be removed", ["run", *KINDS, "together"], rows)
    console.print(
        "Report, audit, comparison and resume stay possible; inverting a round whose model is gone does not.",
        soft_wrap=True,
    )
    if not delete:
        console.print("Nothing was removed; add --delete to do it.")
        return
    for _, files in removed:
        remove(files)


def _opened(directory: Path) -> "Run":
    from fedinverse.run import Run

    run = Run(directory.resolve())
    run.table  # noqa: B018 - refuses what is no run directory
    return run
