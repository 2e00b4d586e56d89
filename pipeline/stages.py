"""A whole run, stage after stage. Each is skipped when its outputs are there, so a killed run is simply run again."""

import time
from contextlib import nullcontext
from pathlib import Path

from fedinverse.errors import ConfigError
from fedinverse.run import WORLDS, prepare
from fedinverse.storage import read_json, write_json
from pipeline.audit import audit, show
from pipeline.console import console, show_threat_model
from pipeline.experiment import Experiment, resolved
from pipeline.federate import federate, is_federated
from pipeline.invert import PriorTraining, invert
from pipeline.report import report


def run_all(experiment: Experiment, *, resume: bool) -> Path:
    """Run every stage; return the report.

    Raises:
        ConfigError: the run directory exists and ``resume`` was not asked for.
        FedInverseError: see the stages.
    """
    path = (Path(experiment.out) / experiment.name).resolve()
    if (path / "config.json").exists() and not resume:
        raise ConfigError(
            f"{path} exists already; continue it with --resume, or choose another name with --set name=... or --out"
        )
    console.print(f"[dim]preparing data for {path}[/dim]")
    clock = _Clock(path)
    run = prepare(path, resolved(experiment))
    show_threat_model(run)
    clock.lap("prepare")
    worlds = WORLDS if experiment.audit.without_victim and experiment.attacks else WORLDS[:1]
    ahead = experiment.attacks and not all(is_federated(run, world) for world in worlds)
    with PriorTraining(run) if ahead else nullcontext():
        for world in worlds:
            federate(run, world, experiment.engine)
    clock.lap("federate")
    if experiment.attacks:
        invert(run)
        clock.lap("invert")
        scores = audit(run)
        show(run, scores)
        clock.lap("audit")
    page = report(run)
    clock.lap("report")
    console.print(clock.summary())
    console.print(f"[b]Report[/b]  {page}")
    return page


class _Clock:
    """Adds up wall seconds per stage in ``times.json``, over resumes."""

    def __init__(self, path: Path) -> None:
        self._file, self._last = path / "times.json", time.perf_counter()
        self._times: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """Count the time since the last lap as ``stage``."""
        now = time.perf_counter()
        stored: dict[str, float] = read_json(self._file) if self._file.exists() else {}
        stored[stage] = round(stored.get(stage, 0.0) + now - self._last, 2)
        self._times, self._last = stored, now
        write_json(self._file, stored)

    def summary(self) -> str:
        """Return all stages' seconds on one line."""
        parts = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in self._times.items())
        return f"[dim]{parts}; {sum(self._times.values()):.0f} s in all[/dim]"
