"""Which inversion belongs to which attack and target: ``attacker/inversions/index.json``, written with the plan.

Reading it opens no image, no network and no pool, and makes nothing.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from attacker.inversion import Inversion
from auditor.arms import TYPE_I
from auditor.controls import Inverted
from auditor.table import EVERY_ATTACK
from auditor.targets import LeftOut, Targets
from auditor.verdict import AttackCost
from fedinverse.errors import StageError
from fedinverse.run import Run
from fedinverse.storage import read_json, typed, write_json


@dataclass(frozen=True)
class Planned:
    """One line of the index.

    Attributes:
        attack: label of the attack.
        target_sha256: of the weights inverted.
        directory: of the inversion, relative to the run's inversions.
    """

    attack: str
    target_sha256: str
    directory: str


@dataclass(frozen=True)
class Index:
    """Every inversion that was planned, done or not."""

    planned: tuple[Planned, ...]


@dataclass(frozen=True)
class Finished(Inverted):
    """A finished inversion, with what the attacker wrote down of it."""

    @property
    def inversion(self) -> Inversion:
        """Its costs and settings."""
        return Inversion(self.directory)


def write_index(run: Run, planned: list[Planned]) -> None:
    """Write the index of ``run``."""
    write_json(run.files.attacker.index, asdict(Index(tuple(planned))))


@dataclass(frozen=True)
class Inversions:
    """What was inverted: the finished ones by target, in the order of ``targets.json``, and the arms left out."""

    finished: list[Finished]
    left_out: tuple[LeftOut, ...]

    @property
    def captured(self) -> list[Finished]:
        """Those of captured models (arm A)."""
        return [each for each in self.finished if each.target.arm == "A"]

    @property
    def costs(self) -> dict[tuple[str, int], AttackCost]:
        """What each attack cost at each round that it was run at."""
        costs = {}
        for each in self.captured:
            about = each.inversion.about
            costs[each.attack, each.target.round] = AttackCost(
                seconds=about.cost.seconds + about.prior_seconds, target_queries=about.cost.target_queries
            )
        return costs

    @property
    def marks(self) -> tuple[str, ...]:
        """What the attacks on captured models left out or did otherwise than they were asked to, with the rounds."""
        rounds: dict[tuple[str, str], list[int]] = {}
        for each in self.captured:
            for note in each.inversion.about.notes:
                rounds.setdefault((each.attack, note), []).append(each.target.round)
        return tuple(
            f"Attack '{attack}' on the model of round {', '.join(map(str, numbers))}: {note}."
            for (attack, note), numbers in rounds.items()
        )

    @property
    def samples(self) -> list[Path]:
        """The files of unoptimised samples of the attacks' priors.

        Of a prior that depends on its target, those of the world without the victim, or of the untrained model where
        there is none.
        """
        source = "B2" if any(each.target.arm == "B2" for each in self.finished) else "B1"
        of_source = [each for each in self.finished if each.target.arm == source]
        return sorted({each.directory.parent / each.inversion.about.samples for each in of_source})


def finished(run: Run) -> list[Finished]:
    """Return the finished inversions of ``run``; see ``read_inversions``."""
    return read_inversions(run).finished


def read_inversions(run: Run) -> Inversions:
    """Read which inversions of ``run`` are finished, and of which target each is.

    Raises:
        StageError: no inversion was planned yet; names the stage to run.
    """
    targets, path = Targets.read(run), run.files.attacker.index
    if not path.exists():
        raise StageError(f"{run.path} holds no inversion; run the stage 'invert' first (fedinverse invert {run.path})")
    index = typed(Index, read_json(path), path)
    done = []
    for target in targets.models:
        for each in index.planned:
            directory = run.files.attacker.inversions / each.directory
            of_arm = (each.attack == TYPE_I) == (target.arm == "T1")
            if each.target_sha256 == target.sha256 and of_arm and Inversion(directory).done:
                attack = EVERY_ATTACK if target.arm == "T1" else each.attack
                done.append(Finished(attack, target, run.path / target.weights, directory))
    return Inversions(done, targets.left_out)


def directory_of(run: Run, each: Finished) -> str:
    """Return where an inversion lies below the run's, the same for the same attack on the same weights."""
    return each.directory.relative_to(run.files.attacker.inversions).as_posix()
