"""``fedinverse compare``: runs beside each other, paired by seed."""

from pathlib import Path
from typing import Annotated

import typer

from fedinverse.layout import SWEEP


def compare(
    runs: Annotated[list[Path], typer.Argument(help="run directories, or a sweep's directory", metavar="RUN...")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="where page and tables go (default: the sweep itself, or beside the runs)"),
    ] = None,
    by: Annotated[
        list[str] | None, typer.Option("--by", metavar="KEY", help="group by this key only; may be repeated")
    ] = None,
    baseline: Annotated[str, typer.Option("--baseline", help="the group that others are held against")] = "",
) -> None:
    """Compare finished runs: leakage, utility and cost of each group, and paired differences from a baseline."""
    from pipeline.compare import compare_runs
    from report.console import say

    one_sweep = len(runs) == 1 and (runs[0] / SWEEP).exists()
    place = out or (runs[0] if one_sweep else runs[0].resolve().parent / "comparison")
    page = compare_runs(runs, place, by or (), baseline)
    say("Comparison", f"{page.resolve()}")
