"""Who runs what and when, if pytest-xdist runs the tests on several workers (``pytest -n auto``).

One worker runs the tests of a file, which share its fixtures. Two sets of files are kept together as if they were one:
deployments, whose many processes mostly wait for each other and would be late if there were twice as many, and the
report's, which show the same runs.
"""

from pathlib import Path

from xdist.scheduler import LoadFileScheduling

# Longest first, so that no worker is left alone with one at the end. The others follow by name.
LONGEST = (
    "deployment",
    "test_own_app",
    "test_end_to_end",
    "test_federation",
    "test_worker",
    "test_sweep",
    "report",
    "test_paper",
)


def group_of(nodeid: str) -> str:
    """Return the group of a test: tests of one group run on one worker, one after the other."""
    name = Path(nodeid.split("::", 1)[0]).stem
    if name.startswith("test_deploy") or name == "test_flwr_run":
        return "deployment"
    return "report" if name.startswith("test_report") else name


def place(nodeid: str) -> int:
    """Return where the group of a test stands in the order, 0 is the first."""
    group = group_of(nodeid)
    return LONGEST.index(group) if group in LONGEST else len(LONGEST)


class Groups(LoadFileScheduling):
    """Gives each worker a group at a time. (``--dist loadgroup`` of 3.8 finds no groups under pytest 9.2.)"""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
