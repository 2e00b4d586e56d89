"""Which of the captured rounds are inverted."""

from pathlib import Path

import torch

from attacker.settings import Attacker
from fedinverse.errors import IntegrityError, StageError
from fedinverse.layout import ROUND_FILES
from fedinverse.models import build
from fedinverse.shard import Shard
from fedinverse.storage import into_module, load_weights, read_metadata


def captured(spool: Path) -> dict[int, Path]:
    """Return the captured models by round; of several for one round, the one received last.

    Raises:
        IntegrityError: a file is damaged or does not say its round; names it.
    """
    found: dict[int, Path] = {}
    for path in sorted(spool.glob(ROUND_FILES), key=lambda path: path.stat().st_mtime_ns):
        about = read_metadata(path)
        if not about.get("model-round", "").isdigit():
            raise IntegrityError(f"{path}: its metadata does not say which round's model it is; not a capture")
        found[int(about["model-round"])] = path
    return dict(sorted(found.items()))


def due(spool: Path, settings: Attacker, shard: Shard, *, over: bool = True) -> dict[int, Path]:
    """Return the captured models that the schedule asks for, by round.

    Args:
        spool: directory of captures.
        settings: whose ``rounds`` is the schedule.
        shard: the attacker's own images, for ``new_best``.
        over: no further capture will come. Before that, what is due already: a prefix of what will be due.

    Raises:
        StageError: it is over and nothing was captured, or not a listed round; the message says which were.
    """
    models = captured(spool)
    if not models:
        if not over:
            return {}
        raise StageError(f"{spool} holds no capture; run the federation first, or point to another directory")
    wanted, last = settings.rounds, max(models)
    if isinstance(wanted, tuple):
        missing = sorted(set(wanted) - models.keys())
        if missing and over:
            raise StageError(
                f"attacker.rounds asks for {missing}, but the attacker received only the models of rounds "
                f"{sorted(models)}: it is sent a model only when it takes part"
            )
        return {number: models[number] for number in sorted(wanted) if number in models}
    if wanted == "last":
        return {last: models[last]} if over else {}
    if wanted == "new_best":
        return _new_best(models, shard)
    return {
        number: path for number, path in models.items() if number % settings.every_nth == 0 or (over and number == last)
    }


def _new_best(models: dict[int, Path], shard: Shard) -> dict[int, Path]:
    from fedinverse.data.source import unit

    best, chosen = -1.0, {}
    for number, path in models.items():
        weights, about = load_weights(path)
        network = build(about["model"], int(about["classes"]), float(about["width"]), seed=0).eval()
        into_module(network, weights, str(path))
        with torch.inference_mode():
            accuracy = float((network(unit(shard.images)).argmax(1) == shard.labels).float().mean())
        if accuracy > best:
            best, chosen[number] = accuracy, path
    return chosen
