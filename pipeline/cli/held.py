"""A run directory, opened by one command alone: as it is, or to ask it one of the four questions again."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedinverse.config import Section
    from fedinverse.run import Run
    from fedinverse.tables import Table


@contextmanager
def held(directory: Path) -> Iterator["Run"]:
    """Open the run in ``directory`` for the time of a block, during which no other process works in it."""
    from fedinverse.lock import only_here
    from fedinverse.run import Run
    from pipeline.experiment import check_stored

    opened = Run(directory.resolve())
    theirs = opened.table.get("app")  # refuses what is no run directory
    if theirs:  # an audited app: its modules make the network
        sys.path.insert(0, str(theirs["directory"]))
    check_stored(opened)
    with only_here(opened.path):
        yield opened


@contextmanager
def asked_again(
    directory: Path, section: str, settings: "Callable[[Table], Section]", assignments: list[str]
) -> Iterator["Run"]:
    """Open a run for a block that answers the question of ``section``; then gather, show and report the answers."""
    from fedinverse.run import prepare
    from fedinverse.tables import assigned
    from pipeline.stages.answers import gather, show_answers
    from pipeline.stages.report import report
    from report.console import say

    with held(directory) as run:
        chosen = settings(assigned(run.table.get(section) or {}, assignments))
        asking = prepare(run.path, run.table | {section: chosen.model_dump(mode="json")})
        yield asking
        gather(asking)
        show_answers(asking)
        if asking.files.report.exists():
            say("Report", str(report(asking)))
