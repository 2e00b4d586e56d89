"""Frees the disk space of a finished run: files that nothing it says needs any more.

Removed are

checkpoints   of rounds that no inversion used, but the first and the last;
captures      of rounds that neither an inversion nor a membership answer used;
priors        in the cache that were trained for this run's own captured models, and that no run beside it names.

Verdict, report, scores, grids, reconstructions and the server's ledger are never removed, so the run can still be read,
reported, audited again and compared; what it can no longer do is invert a round whose model is gone.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from attacker.attacks.registry import make_attack
from attacker.schedule import captured
from auditor.membership import read_report
from fedinverse.data.source import cache_directory
from fedinverse.errors import StageError
from fedinverse.layout import ABOUT, ROUND_FILES, replies_of, spools_of
from fedinverse.lock import check_own
from fedinverse.run import Run
from fedinverse.storage import read_json
from pipeline.runs import REPORTED, find_runs, stage_of
from pipeline.stages.inversions import finished
from pipeline.stages.updates import read_of_updates

KINDS = ("checkpoints", "captures", "priors")


@dataclass(frozen=True)
class Removable:
    """A file that may go."""

    kind: str
    path: Path
    size: int


def removable(run: Run, keep: Collection[str] = ()) -> list[Removable]:
    """Return what may be removed of ``run``, but for the kinds in ``keep``.

    Raises:
        StageError: the run is not finished: its checkpoints are what it continues from.
        IntegrityError: a directory in it is a link to elsewhere.
    """
    check_own(run.path)
    stage = stage_of(run.path)
    if stage != REPORTED:
        raise StageError(f"{run.path} is not finished ({stage}); continue it with --resume before it is pruned")
    used = _used(run)
    candidates = {
        "checkpoints": (  # all but the first, which controls start from, and the last, the federation's result
            path
            for world in run.worlds
            for path in sorted(run.files.server.checkpoint(world, 0).parent.glob(ROUND_FILES))[1:-1]
        ),
        "captures": (
            path
            for world in run.worlds
            for spool in spools_of(run.files.attacker, world)
            for path in (*sorted(spool.glob(ROUND_FILES)), *sorted(replies_of(spool).glob(ROUND_FILES)))
        ),
        "priors": _own_priors(run),
    }
    return [
        Removable(kind, path, path.stat().st_size)
        for kind in KINDS
        if kind not in keep
        for path in candidates[kind]
        if path.resolve() not in used
    ]


def remove(files: Collection[Removable]) -> None:
    """Delete ``files``; one that is gone already is no error."""
    for each in files:
        each.path.unlink(missing_ok=True)


def _used(run: Run) -> set[Path]:
    """Return the weights that an inversion used, and those of rounds in which membership was asked.

    The audit asks the models once more what they make of known images; a membership answer is keyed by its captures.
    """
    used = {each.weights.resolve() for each in finished(run)} if run.table.get("attacks") else set()
    used |= {path.resolve() for path in read_of_updates(run)}
    asked = run.files.auditor.membership
    if run.table.get("membership") and asked.exists():
        rounds = read_report(asked).rounds
        captures = (captured(*spools_of(run.files.attacker, world)) for world in run.worlds)
        used |= {path.resolve() for models in captures for number, path in models.items() if number in rounds}
    return used


def _own_priors(run: Run) -> Iterator[Path]:
    """Yield cached priors that were trained for one captured model of this run."""
    keys = {
        about["prior"]
        for path in run.files.attacker.inversions.glob(f"*/*/{ABOUT}")
        for about in [read_json(path)]
        if (table := run.table["attacks"].get(path.parts[-3])) is not None  # an arm of the auditor's trains none
        and make_attack(table, path.parts[-3], str(run.path)).needs.target_at_prior
    }
    others = {
        read_json(path)["prior"]
        for other in find_runs(run.path.parent)
        if other.path.resolve() != run.path.resolve()
        for path in other.files.attacker.inversions.glob(f"*/*/{ABOUT}")
    }
    for key in sorted(keys - others):
        yield from sorted((cache_directory() / "priors").glob(f"*-{key[:16]}.safetensors"))
