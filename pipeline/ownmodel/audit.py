"""The stages of ``fedinverse audit-model``: those of a run, without its federation."""

from pathlib import Path

from rich.markup import escape

from fedinverse.lock import only_here
from fedinverse.run import Run
from fedinverse.tables import flat
from pipeline.log import logging_to
from pipeline.ownmodel.prepare import prepare_model
from pipeline.ownmodel.settings import ModelAudit
from pipeline.profile import Stages
from pipeline.provenance import note_start
from pipeline.stages.outcome import attacked
from report.console import console, echo, show_threat_model
from report.run.partition import write_partition
from report.text import percent

CHANCES = 3  # an accuracy below so many times chance is no accuracy of a trained model


def audit_model(said: ModelAudit, out: Path = Path("runs"), *, resume: bool = False) -> Path:
    """Audit one weights file; return the run directory.

    Raises:
        FedInverseError: names the option or key, what was found and what to write.
    """
    path = (out / said.run_name).resolve()
    with only_here(path):
        echo(f"preparing data for {path}", "dim")
        run = prepare_model(said, out, resume=resume)
        write_partition(run)
        note_start(run)
        stages = Stages(path, profile=False)
        with logging_to(path, flat(run.table)):
            show_threat_model(run)
            _say_accuracy(run)
            attacked(run, stages)
    return path


def _say_accuracy(run: Run) -> None:
    """Say what the model itself reads of the reserve, and what is wrong if that is next to nothing."""
    line = run.recorded_rounds("with_victim")[-1]
    reserve = int((run.split["part"] == "reserve").sum())
    console.print(
        f"The model reads {percent(line.accuracy)} of {reserve} reserve images of {len(run.class_names)} classes"
    )
    if line.accuracy < CHANCES / len(run.class_names):
        names = ", ".join(run.class_names[:4])
        console.print(
            f"[yellow]note[/yellow] that is near chance. Are its classes in the order of the directories' names "
            f"({escape(names)}, ...), and are mean, std and transform of --model those that it was trained with?",
            soft_wrap=True,
        )
