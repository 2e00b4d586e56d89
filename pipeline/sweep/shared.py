"""What points of one seed have in common and need not make twice, beyond what the cache holds for all runs.

Every point starts from the same untrained model when seed and network are the same, so the attack on it (control B1)
is the same work: its inversions are copied from a finished point. They lie under the hash of target, attack, labels,
seed and public set; one that does not fit is never looked at.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

from attacker.inversion import Inversion
from fedinverse.run import Run
from fedinverse.storage import atomic_write
from pipeline.experiment import resolved
from pipeline.sweep.plan import Point

SAME = ("seed", "model", "data", "split", "population", "attacker", "attacks")


def adopt_inversions(point: Point, finished: Iterable[Point]) -> int:
    """Copy the inversions of the untrained model from the first point of ``finished`` that shares them.

    Returns:
        How many were copied.
    """
    for other in finished:
        if _work(other) != _work(point):
            continue
        store, count = Run(point.path).files.attacker.inversions, 0
        for source in sorted(Run(other.path).files.attacker.inversions.glob("*/[!.]*")):
            inversion, mine = Inversion(source), store / source.relative_to(Run(other.path).files.attacker.inversions)
            if inversion.done and inversion.about.model_round == 0 and not mine.exists():
                _copy(source, mine)
                samples = inversion.about.samples
                if not (mine.parent / samples).exists():
                    atomic_write(mine.parent / samples, (source.parent / samples).read_bytes())
                count += 1
        return count
    return 0


def _work(point: Point) -> dict[str, object]:
    table = resolved(point.experiment)
    return {key: table[key] for key in SAME}


def _copy(source: Path, target: Path) -> None:
    """Copy a directory so that it is there whole or not at all."""
    half = target.with_name(f".{target.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    shutil.copytree(source, half)
    half.rename(target)
