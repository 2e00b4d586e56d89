"""Which of the captured rounds are inverted, and which of them together."""

from collections.abc import Sequence
from pathlib import Path

import torch

from attacker.settings import Attacker
from fedinverse.errors import IntegrityError, StageError
from fedinverse.layout import ROUND_FILES, receipts_of, round_file
from fedinverse.models import network_in
from fedinverse.records import ModelFile, Receipt, read_lines
from fedinverse.shard import Shard
from fedinverse.storage import read_metadata
from fedinverse.words import plain


def captured(*spools: Path) -> dict[int, Path]:
    """Return the models captured in any of the spools by round; of several for one round, the one received last.

    Raises:
        IntegrityError: a file is damaged or does not say its round; names it.
    """
    captures: dict[int, Path] = {}
    files = (path for spool in spools for path in spool.glob(ROUND_FILES))
    for path in sorted(files, key=lambda path: path.stat().st_mtime_ns):
        number = ModelFile.read(path).round
        if number < 0:
            raise IntegrityError(f"{path}: its metadata does not say which round's model it is; not a capture")
        captures[number] = path
    return dict(sorted(captures.items()))


def check_received(*spools: Path) -> None:
    """Check that the captures in each spool are what its receipts say was received, as far as it has receipts.

    Raises:
        IntegrityError: a file holds another model: captures of two federations were mixed; names it.
    """
    for spool in spools:
        received: dict[str, set[str]] = {}
        for receipt in read_lines(Receipt, receipts_of(spool)):
            received.setdefault(receipt.file, set()).add(receipt.sha256)
        for path in sorted(spool.glob(ROUND_FILES)):
            if path.name in received and ModelFile.read(path).sha256 not in received[path.name]:
                raise IntegrityError(
                    f"{path} is not the model that {receipts_of(spool).name} beside it says was received: captures of "
                    "two federations were mixed; keep those of one, with its receipts, in a directory of their own"
                )


def due(
    spool: Path, settings: Attacker, shard: Shard, *, over: bool = True, pooled: Sequence[Path] = ()
) -> dict[int, Path]:
    """Return the captured models that the schedule asks for, by round.

    Args:
        settings: whose ``rounds`` is the schedule.
        shard: the attacker's own images, for ``new_best``.
        over: no further capture will come. Before that, what is due already: a prefix of what will be due.
        pooled: the spools of further malicious clients: a round is seen if any of them saw it.

    Raises:
        StageError: it is over and nothing was captured, or not a listed round; the message says which were.
        IntegrityError: it is over and a file is not what was received.
    """
    models = captured(spool, *pooled)
    if not models:
        if not over:
            return {}
        raise StageError(f"{spool} holds no capture; run the federation first, or point to another directory")
    wanted, last = settings.rounds, max(models)
    if over:
        check_received(spool, *pooled)
        for each in (spool, *pooled):
            _check_none_lost(each, wanted, models)
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


def earlier_rounds(models: dict[int, Path], server_round: int, captures: int) -> list[int]:
    """Return the rounds before ``server_round``, newest first, whose models are attacked together with its model.

    Args:
        server_round: of the model to invert.
        captures: how many models are attacked together; those of equal weights count once.
    """
    seen = {_sha(models[server_round])} if server_round in models else set()
    rounds: list[int] = []
    for number in sorted((number for number in models if number < server_round), reverse=True):
        if len(rounds) + 1 >= captures:
            break
        if _sha(models[number]) not in seen:
            seen.add(_sha(models[number]))
            rounds.append(number)
    return rounds


def together(weights: Path, models: dict[int, Path], captures: int) -> tuple[Path, ...]:
    """Return the files of the models that are attacked together with the one in ``weights``, newest first.

    A captured model is joined by captured models; a model of another world by that world's models of the same rounds,
    which lie beside it; a model that belongs to no round by none.

    Raises:
        StageError: a model of the other world was not kept.
        IntegrityError: they are of different networks; names both files.
    """
    server_round = ModelFile.read(weights).round
    if captures == 1 or (weights not in models.values() and weights.name != round_file(server_round)):
        return ()
    rounds = earlier_rounds(models, server_round, captures)
    if weights in models.values():
        paths = tuple(models[number] for number in rounds)
    else:
        paths = tuple(weights.with_name(round_file(number)) for number in rounds)
    for path in paths:
        if not path.exists():
            raise StageError(f"{path} was not kept, but captures = {captures} inverts it together with {weights.name}")
        check_same_network(path, weights, "they cannot be inverted together")
    return paths


def _sha(path: Path) -> str:
    return ModelFile.read(path).sha256 or str(path)


def check_same_network(one: Path, other: Path, why: str) -> None:
    """Raise ``IntegrityError`` if two files are of different networks; names both, and ``why`` that matters."""
    first, second = read_metadata(one), read_metadata(other)
    for key in ("model", "classes", "width"):
        if first.get(key) != second.get(key):
            raise IntegrityError(
                f"{one} and {other} are of different networks ({key} {first.get(key)} and {second.get(key)}); {why}"
            )


def _check_none_lost(spool: Path, wanted: object, models: dict[int, Path]) -> None:
    """Raise ``StageError`` if a model that the schedule asks for was received and is not there any more."""
    received = {receipt.model_round: receipt.file for receipt in read_lines(Receipt, receipts_of(spool))}
    asked = {"last": {max(received, default=0)}}.get(str(wanted), set(wanted) if isinstance(wanted, tuple) else set())
    lost = sorted((asked & received.keys()) - models.keys())
    if lost:
        raise StageError(
            f"{spool} lacks {plain(received[lost[0]], 100)}, the model of round {lost[0]} that its receipts name; put "
            "it back: another round's model is not inverted in its place"
        )


def _new_best(models: dict[int, Path], shard: Shard) -> dict[int, Path]:
    from fedinverse.data.source import unit

    best, chosen = -1.0, {}
    for number, path in models.items():
        network, _ = network_in(path)
        network.eval()
        with torch.inference_mode():
            accuracy = float((network(unit(shard.images)).argmax(1) == shard.labels).float().mean())
        if accuracy > best:
            best, chosen[number] = accuracy, path
    return chosen
