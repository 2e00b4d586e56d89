"""``storage.checkpoints = "needed"``: of the global models of a run that goes on, only those are kept that are needed.

Needed are, in each world, the initial model, the last recorded one (a run resumes from it), and what the rule says. The
rule belongs to the process that runs the server and holds while ``keeping`` does. Hashes of all rounds stay in
``rounds.jsonl`` and the ledger.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fedinverse.errors import ConfigError, StageError
from fedinverse.layout import ROUND_FILES, World
from fedinverse.run import Run

Needed = Callable[[World, int], bool]
_rules: dict[Path, Needed] = {}


@contextmanager
def keeping(run: Run, needed: Needed | None) -> Iterator[None]:
    """While it lasts, ``thin`` deletes models of ``run`` that are not ``needed`` (world, round); None: it deletes none.

    What an earlier process has left behind goes first.
    """
    if needed is not None:
        _rules[run.path.resolve()] = needed
    try:
        for world in run.worlds:
            thin(run, world)
        yield
    finally:
        _rules.pop(run.path.resolve(), None)


def thin(run: Run, world: World) -> None:
    """Delete the models that nothing needs, of rounds before the last recorded one."""
    needed = _rules.get(run.path.resolve())
    recorded = run.recorded_rounds(world) if needed is not None else []
    if needed is None or not recorded:
        return
    for path in sorted(run.files.server.checkpoint(world, 0).parent.glob(ROUND_FILES)):
        number = int(path.stem.removeprefix("round-"))
        if 0 < number < recorded[-1]["round"] and not needed(world, number):
            path.unlink(missing_ok=True)


def kept_checkpoint(run: Run, world: World, server_round: int) -> Path:
    """Return the file of the global model after ``server_round``.

    Raises:
        StageError: the round was run, but its model was not kept.
        ConfigError: there is no such round; says which there are.
    """
    path = run.files.server.checkpoint(world, server_round)
    if path.exists():
        return path
    kept = ", ".join(sorted(other.stem for other in path.parent.glob(ROUND_FILES))) or "none"
    if any(line["round"] == server_round for line in run.recorded_rounds(world)):
        raise StageError(
            f"{path} was not kept: storage.checkpoints = \"needed\", or 'fedinverse runs prune', left only {kept}; "
            'choose one of them, or run the federation again under another name with storage.checkpoints = "all"'
        )
    raise ConfigError(f"{run.path} has no global model of round {server_round}; it has {kept}")
