"""A run directory, opened by one command alone."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedinverse.run import Run


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
