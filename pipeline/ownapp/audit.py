"""``fedinverse audit-app``: federation with and without the victim, inversion, audit, report, for somebody's app."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from auditor.settings import Audit
from fedinverse.layout import WITH_VICTIM, control_worlds
from fedinverse.lock import only_here
from fedinverse.tables import flat
from pipeline.log import logging_to
from pipeline.ownapp.federate import federate_app
from pipeline.ownapp.prepare import Prepared, prepare_app
from pipeline.ownapp.settings import FILE, read_settings
from pipeline.profile import Stages
from pipeline.provenance import note_start
from pipeline.stages.invert import Meanwhile
from pipeline.stages.outcome import attacked
from report.console import echo, show_threat_model
from report.run.partition import write_partition


@contextmanager
def opened(
    directory: Path, assignments: list[str] | tuple[str, ...], out: Path | None, *, resume: bool
) -> Iterator[Prepared]:
    """Read ``audit.toml``, check it against the app, and make the run directory, which is held while the body runs.

    Arguments as for ``audit_app``.
    """
    file = directory if directory.is_file() else directory / FILE
    settings = read_settings(file, list(assignments))
    path = ((out or Path(settings.out)) / settings.name).resolve()
    with only_here(path):
        echo(f"preparing data for {path}", "dim")
        prepared = prepare_app(settings, file, out, resume=resume)
        write_partition(prepared.run)
        note_start(prepared.run)
        yield prepared


def audit_app(
    directory: Path, assignments: list[str] | tuple[str, ...] = (), out: Path | None = None, *, resume: bool = False
) -> Path:
    """Audit the Flower app in ``directory`` by its ``audit.toml``; return the run directory.

    Args:
        directory: holds ``audit.toml``; or that file itself.

    Raises:
        FedInverseError: one message that names the key of audit.toml, what was found and what to write.
    """
    with opened(directory, assignments, out, resume=resume) as prepared:
        return _stages(prepared)


def _stages(prepared: Prepared) -> Path:
    run, path = prepared.run, prepared.run.path
    stages = Stages(path, profile=False)
    with logging_to(path, flat(run.table)):
        show_threat_model(run)
        with stages.stage("federate"), Meanwhile(run):
            for world in (WITH_VICTIM, *control_worlds(run.section("audit", Audit).control_worlds)):
                federate_app(prepared, world, lambda world, line: None)
        attacked(run, stages)
    return path
