"""What must stand beside everything that is shown of a run, whatever came out of it."""

from fedinverse.config import Data
from fedinverse.run import Run

OVERLAP = (
    "Overlap allowed: public and victim classes may be the same (data.allow_overlap), so a success may be the "
    "attacker's own."
)
OVERLAP_CAPTION = "Overlap allowed: public images may show these classes"


def overlaps(run: Run) -> bool:
    """Return whether the attacker's public images were allowed to show the victim's classes."""
    return run.section("data", Data).allow_overlap


def marks_of_run(run: Run) -> tuple[str, ...]:
    """Return the marks of ``run``; empty: there are none."""
    return (OVERLAP,) if overlaps(run) else ()
