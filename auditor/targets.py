"""Which model belongs to which arm of a run: ``targets.json``, written once by the stage ``controls``.

Everybody who wants to know the arm or the world of a model that was inverted reads it here; a path says neither.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from auditor.arms import ARMS
from fedinverse.errors import IntegrityError, StageError
from fedinverse.run import Run
from fedinverse.storage import read_json, typed, write_json


@dataclass(frozen=True)
class ArmTarget:
    """A model that is inverted for the audit.

    Attributes:
        arm: see ``auditor.arms``.
        world: of the federation that the model comes from.
        round: of the model in that federation; 0: untrained.
        weights: the file, relative to the run directory.
        sha256: of the weights in it.
    """

    arm: str
    world: str
    round: int
    weights: str
    sha256: str


@dataclass(frozen=True)
class LeftOut:
    """An arm that this run cannot have.

    Attributes:
        arm: its key.
        reason: one clause that says why.
    """

    arm: str
    reason: str


@dataclass(frozen=True)
class Targets:
    """All models that are inverted for the audit of a run, captures first, and the arms it cannot have."""

    models: tuple[ArmTarget, ...]
    left_out: tuple[LeftOut, ...]

    def of(self, arm: str) -> tuple[ArmTarget, ...]:
        """Return the models of ``arm``."""
        return tuple(each for each in self.models if each.arm == arm)

    def write(self, run: Run) -> None:
        """Write the file, unless it says the same already."""
        path = run.files.auditor.targets
        if not path.exists() or read_json(path) != _plain(self):
            write_json(path, _plain(self))

    @staticmethod
    def read(run: Run) -> "Targets":
        """Read the file.

        Raises:
            StageError: the stage ``controls`` has not run, or the run was made before there was one.
            IntegrityError: the file was altered; names the key.
        """
        path = run.files.auditor.targets
        if not path.exists():
            raise StageError(
                f"{run.path} has no {path.name}: its control targets were not made yet, or it was made by an older "
                f"version; run the stage 'invert' first (fedinverse invert {run.path})"
            )
        targets = typed(Targets, read_json(path), path)
        named = {each.arm for each in targets.models} | {each.arm for each in targets.left_out}
        unknown = sorted(named - ARMS.keys())
        if unknown:
            raise IntegrityError(f"{path}: names the arm {', '.join(unknown)}; known: {', '.join(ARMS)}")
        return targets


def _plain(targets: Targets) -> dict[str, list[dict[str, object]]]:
    return {name: [dict(each) for each in part] for name, part in asdict(targets).items()}


def weights_of(run: Run, target: ArmTarget) -> Path:
    """Return the file that holds the weights of ``target``."""
    return run.path / target.weights
