"""What a run directory tells of itself without being opened: how far it came, how large it is."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from auditor.marks import overlaps
from auditor.verdict import VERSION, read_verdict
from fedinverse.errors import IntegrityError
from fedinverse.layout import RunFiles, is_control, is_run
from fedinverse.run import Run
from server.settings import Federation

NOT_STARTED = "not started"
REPORTED = "reported"
NONE = "–"


def find_runs(directory: Path) -> Iterator[Run]:
    """Yield the run directories in ``directory``, itself included, by path; none lies inside another."""
    if is_run(directory):
        yield Run(directory)
    elif directory.is_dir():
        for path in sorted(directory.iterdir()):
            if not path.is_symlink():
                yield from find_runs(path)


def stage_of(path: Path) -> str:
    """Return how far the run in ``path`` came, in words; a file that is being written counts as not there yet."""
    if not is_run(path):
        return NOT_STARTED
    run = Run(path)
    if run.files.report.exists():
        return REPORTED
    if run.files.verdict.exists():
        return "audited"
    inversions = len(list(run.files.attacker.inversions.glob("*/*/about.json")))
    if inversions:
        return f"{inversions} inverted"
    with suppress(IntegrityError, OSError):
        rounds = run.section("federation", Federation).rounds
        for world in reversed(run.worlds):
            lines = run.recorded_rounds(world)
            if lines:
                where = " without the victim" if is_control(world) else ""
                return f"round {lines[-1].round} of {rounds}{where}"
    return "prepared" if run.files.pools.exists() else "started"


def verdict_of(path: Path) -> str:
    """Return the outcome of the run's verdict, and whether classes overlap; a dash: there is none yet."""
    document = RunFiles(path).verdict
    if not document.exists():
        return NONE
    verdict = read_verdict(document)
    earlier = "" if verdict.rules == VERSION else f" (by the rules of version {verdict.rules}: audit it again)"
    return verdict.outcome + earlier + (", overlap" if overlaps(Run(path)) else "")


def files_of(path: Path) -> list[tuple[Path, int]]:
    """Return the run's files with their sizes in bytes, the largest first."""
    files = []
    for file in path.rglob("*"):
        with suppress(FileNotFoundError):  # a running stage replaced it
            if file.is_file() and not file.is_symlink():
                files.append((file, file.stat().st_size))
    return sorted(files, key=lambda each: (-each[1], each[0]))


def date_of(path: Path) -> str:
    """Return when a file directly in the run directory was last written, in local time."""
    latest = max((file.stat().st_mtime for file in path.iterdir()), default=path.stat().st_mtime)
    return datetime.fromtimestamp(latest).astimezone().strftime("%Y-%m-%d %H:%M")
