"""``fedinverse sweep``: many experiments from one file; ``fedinverse compare``: runs beside each other."""

from pathlib import Path
from typing import Annotated

import typer

from fedinverse.layout import SWEEP
from pipeline.cli.options import OutOption, SetOption

EXAMPLE = """
**A sweep's file**  extends an experiment and says what varies

  extends = "quickstart"
  name = "defences"

  [sweep]
  seeds = [0, 1, 2]

  [sweep.grid]
  model.width = [0.25, 0.5]

  [sweep.variants.none]

  [[sweep.variants.bido.cohorts]]
  defence = "bido_hsic"
  fraction = 1.0

**Another attack on the federations of a finished sweep**

fedinverse sweep defences/matched-kedmi --reuse runs/matched
"""


def sweep(
    config: Annotated[str, typer.Argument(help="a TOML file with a table [sweep], or the name of one in configs/")],
    set_: SetOption = None,
    out: OutOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="skip finished points, continue the others")] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="points side by side; the cores are divided")] = 1,
    reuse: Annotated[
        Path | None,
        typer.Option("--reuse", help="another sweep's directory: attack its federations instead of federating anew"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check and list the points, run nothing")] = False,
) -> None:
    """Run every point of a sweep as a run of its own, then compare them."""
    from fedinverse.errors import ConfigError, StageError
    from pipeline.compare import compare_runs
    from pipeline.runs import stage_of
    from pipeline.sweep import load_plan, run_points
    from pipeline.sweep.reuse import adopt_federations
    from pipeline.sweep.runner import check_directory
    from report.console import console, echo, say, table
    from report.text import counted

    plan = load_plan(config, set_ or [], out)
    if dry_run:
        rows = [[point.experiment.name, str(point.experiment.seed), stage_of(point.path)] for point in plan.points]
        say("Sweep", f"{plan.path}")
        table(f"{len(plan.points)} points", ["point", "seed", "state"], rows)
        return
    check_directory(plan, resume=resume)
    if reuse is not None:
        say("Federations", f"{counted(adopt_federations(plan.points, reuse), 'point')} taken over from {reuse}")
    outcomes = run_points(plan, jobs)
    failed = [f"point {outcome.point.experiment.name}: {outcome.reason}" for outcome in outcomes if outcome.reason]
    console.print(f"{len(outcomes) - len(failed)} of {len(outcomes)} points are finished")
    if any(outcome.point.experiment.attacks for outcome in outcomes if not outcome.reason):
        try:
            say("Comparison", f"{compare_runs([plan.path], plan.path)}")
        except ConfigError as error:  # the points are worth having all the same
            echo(f"The points are not compared: {error}")
    if failed:
        raise StageError("\n".join(failed))


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
