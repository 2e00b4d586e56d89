"""What points need not do again: federations of another sweep, and the attack on the untrained model.

A point takes over the run of its own name in another sweep's directory, without what was concluded there: images,
split, every world's federation, captures, and the inversions that are the same in both. Its configuration may differ
in what comes after a federation only; that it does is written down as an amendment, as in any run that goes on.

Points of one seed and network start from the same untrained model: the inversions of it (control B1) are copied from a
finished point. They lie under the hash of target, attack, labels, seed and public set; one that does not fit is never
looked at.
"""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from attacker.inversion import Inversion
from fedinverse.class_lists import names_numbered
from fedinverse.errors import ConfigError
from fedinverse.layout import RunFiles, is_run
from fedinverse.run import LATER, Run, amend, differences
from fedinverse.storage import atomic_write, read_object, write_json
from fedinverse.tables import Table, laid_over
from pipeline.experiment import completed, resolved, worlds_of
from pipeline.stages.federate import is_federated
from pipeline.sweep.plan import Point


def adopt_federations(points: Iterable[Point], directory: Path) -> int:
    """Let every point that is not there yet start from the run of its name in ``directory``.

    Returns:
        How many took one over; a point without such a run federates for itself.

    Raises:
        ConfigError: no point has a run there, or a run's federation is another one or unfinished; names runs and keys.
    """
    candidates = [point for point in points if not is_run(point.path)]
    pairs = [(point, directory / point.path.name) for point in candidates if is_run(directory / point.path.name)]
    if candidates and not pairs:
        wanted = ", ".join(point.path.name for point in candidates[:3])
        raise ConfigError(f"{directory} holds no run of these points (it would be called {wanted}, ...); check --reuse")
    problems = [problem for point, source in pairs if (problem := _why_not(point, source))]
    if problems:
        raise ConfigError("\n".join(problems))
    for point, source in pairs:
        _adopt(point, source)
    return len(pairs)


def _why_not(point: Point, source: Path) -> str:
    """Return why the run in ``source`` cannot be gone on with as ``point``; empty: it can."""
    before = completed(read_object(RunFiles(source).config))
    locked = [key for key in differences(before, _asked(point, source)) if key.split(".")[0] not in {*LATER, "name"}]
    if locked:
        return (
            f"{source} is another federation (differs in {', '.join(locked[:5])}); only {', '.join(LATER)} may differ "
            "from it: make the rest the same, or leave out --reuse"
        )
    left = [world for world in worlds_of(point.experiment) if not is_federated(Run(source), world)]
    return f"{source} has not finished its federation ({', '.join(left)}); finish that sweep first" if left else ""


def _asked(point: Point, source: Path) -> Table:
    """Return the configuration that the point's run directory has; processes left open are as many as there."""
    asked = names_numbered(resolved(point.experiment), Run(source).class_names)
    if point.experiment.attacker.processes:
        return asked
    return laid_over(asked, {"attacker": {"processes": Run(source).table.get("attacker", {}).get("processes", 0)}})


def _adopt(point: Point, source: Path) -> None:
    """Copy the run so that it is there whole or not at all."""
    before = RunFiles(source)
    concluded = {before.verdict, before.report, before.auditor.root, before.sheet.root, before.times, before.log}
    half = _half(source, point.path, lambda place, names: [each for each in names if Path(place, each) in concluded])
    asked = _asked(point, source)
    changed = [key for key in differences(completed(Run(source).table), asked) if key != "name"]
    if changed:
        amend(RunFiles(half), changed, asked)
    else:
        write_json(RunFiles(half).config, asked)
    half.rename(point.path)


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
                _half(source, mine).rename(mine)
                samples = inversion.about.samples
                if not (mine.parent / samples).exists():
                    atomic_write(mine.parent / samples, (source.parent / samples).read_bytes())
                count += 1
        return count
    return 0


def _work(point: Point) -> dict[str, object]:
    table = resolved(point.experiment)
    return {key: table[key] for key in SAME}


def _half(source: Path, target: Path, ignore: Callable[[str, list[str]], list[str]] | None = None) -> Path:
    """Copy a directory beside ``target``; renamed, it is there whole or not at all."""
    half = target.with_name(f".{target.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    shutil.copytree(source, half, ignore=ignore)
    return half
