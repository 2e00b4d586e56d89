"""Pairs of consecutive captures, with what the malicious clients sent back in between."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attacker.schedule import captured, check_received, check_same_network
from attacker.settings import Updates
from fedinverse.errors import IntegrityError, StageError
from fedinverse.layout import ROUND_FILES, receipts_of, replies_of
from fedinverse.records import ModelFile, Receipt, read_lines
from fedinverse.storage import read_metadata


@dataclass(frozen=True)
class Pair:
    """The models before and after one round.

    Attributes:
        round: the round between them; ``after`` is the model after it.
        before: file of theta.
        after: file of theta'.
        replies: files of what the malicious clients sent in that round.
        unkept: how many of them were asked to train in it and have no reply here.
    """

    round: int
    before: Path
    after: Path
    replies: tuple[Path, ...]
    unkept: int = 0


def pairs(spools: Sequence[Path], settings: Updates) -> list[Pair]:
    """Return the pairs that ``settings.rounds`` asks for, by round.

    Args:
        spools: of all malicious clients of one federation: a round is seen if any of them saw it.

    Raises:
        StageError: too few captures, or none of two consecutive rounds, or not of a listed one; says which there are.
        IntegrityError: the models of a pair are of different networks, one round has two, or a file is not what was
            received: names the files.
    """
    check_received(*spools)
    models = captured(*spools)
    between = [number for number in models if number - 1 in models]
    where = ", ".join(map(str, spools))
    if not between:
        raise StageError(
            f"{where}: captures of the rounds {sorted(models) or 'none'}, no two of consecutive rounds; an update lies "
            "between two: let the attacker be sent more models (federation.fraction_evaluate), or pool more spools"
        )
    chosen = settings.rounds
    wanted: Sequence[int] = chosen if isinstance(chosen, tuple) else between if chosen == "every" else between[-1:]
    missing = sorted(set(wanted) - set(between))
    if missing:
        raise StageError(
            f"updates.rounds asks for {missing}, but {where} has the models on both sides of {between} only"
        )
    sent, asked = _sent(spools), _asked(spools)
    paired = []
    for number in sorted(wanted):
        for each in (number - 1, number):
            _check_one_model(spools, each)
        before, after = models[number - 1], models[number]
        check_same_network(before, after, "their difference is no update")
        replies = tuple(sent[number].values())
        for reply in replies:
            check_same_network(before, reply, "their difference is no update")
        paired.append(Pair(number, before, after, replies, len(asked[number] - sent[number].keys())))
    if len(spools) > 1:  # those who pool are of one federation, in rounds that nobody asked for too
        for each in models:
            _check_one_model(spools, each)
    return paired


def _sent(spools: Sequence[Path]) -> dict[int, dict[str, Path]]:
    """Return the files of own replies by round and node."""
    replies: dict[int, dict[str, Path]] = defaultdict(dict)
    for spool in spools:
        for path in sorted(replies_of(spool).glob(ROUND_FILES)):
            about = read_metadata(path)
            if not about.get("round", "").isdigit():
                raise IntegrityError(f"{path}: its metadata does not say in which round it was sent; not a kept reply")
            replies[int(about["round"])][about.get("node", path.stem)] = path
    return replies


def _asked(spools: Sequence[Path]) -> dict[int, set[str]]:
    """Return the nodes that were asked to train, by round."""
    asked: dict[int, set[str]] = defaultdict(set)
    for spool in spools:
        for receipt in read_lines(Receipt, receipts_of(spool)):
            if receipt.message_type.startswith("train"):
                asked[receipt.round].add(receipt.node)
    return asked


def _check_one_model(spools: Sequence[Path], server_round: int) -> None:
    files = {
        ModelFile.read(path).sha256 or str(path): path
        for spool in spools
        for path in sorted(spool.glob(f"round-{server_round:04d}*.safetensors"))
    }
    if len(files) > 1:
        first, second, *_ = files.values()
        raise IntegrityError(
            f"{first} and {second} are different models of round {server_round}: captures of two federations, or of a "
            "server that sends each client its own; their difference is nobody's update. Keep those of one federation"
        )
