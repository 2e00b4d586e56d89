"""``--dry-run``: every check of a run, and what it will take, without writing anything."""

from pathlib import Path
from tempfile import TemporaryDirectory

from fedinverse.disk import in_words
from fedinverse.layout import is_run
from fedinverse.run import prepare
from pipeline.disk import check_disk, needed
from pipeline.experiment import Experiment, resolved
from pipeline.preflight import check_before_work
from report.console import console, echo, show_threat_model, table
from report.text import in_time

STEPS = 3  # of every attack: the first warms up, the others are timed


def show_plan(experiment: Experiment) -> None:
    """Check ``experiment`` as a run would, and print who takes part, what to know, disk and time.

    Raises:
        ConfigError: names the key and the fix.
        DataError: a source is absent.
    """
    path = (Path(experiment.out) / experiment.name).resolve()
    check_disk(experiment, path)
    with TemporaryDirectory() as scratch:
        run = prepare(Path(scratch) / experiment.name, resolved(experiment))
        forecast = check_before_work(run, experiment, STEPS)
        show_threat_model(run)
    for note in forecast.notes:
        echo(f"note: {note}")
    table("Disk, at most", ["", "size"], [[what, in_words(size)] for what, size in needed(experiment).items() if size])
    rows = [[what, in_time(seconds)] for what, seconds in forecast.seconds.items()]
    table("Time, about, from a few steps on this machine as busy as it is now", ["", "time"], rows)
    if is_run(path):
        echo(f"{path} exists: a run would need --resume or another name")
    console.print("Nothing was written. All checks passed.")
