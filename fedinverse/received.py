"""What a Flower message carries, whoever wrote the app: its arrays, under whatever record name, and its round."""

from collections.abc import Sequence
from typing import Any

from flwr.app import ArrayRecord, Message, RecordDict
from numpy.typing import NDArray

from fedinverse.messages import read_model

_LARGEST = 16 * 10**9  # bytes of a model that is read: far beyond what is federated, below what fills a disk at once
_ROUND_KEYS = ("server-round", "server_round", "current-round", "current_round", "round")


def arrays_in(content: RecordDict, record: str = "") -> ArrayRecord | None:
    """Return the array record called ``record``; without a name, the largest one. None: there is none with arrays."""
    records = content.array_records
    if record:
        return records.get(record) or None
    return max(records.values(), key=_bytes, default=None) or None


def _bytes(record: ArrayRecord) -> int:
    return sum(len(array.data) for array in record.values())


def weights_in(record: ArrayRecord, names: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """Return the arrays of ``record`` by name (npy without pickle; sizes and headers are looked at first).

    Args:
        record: of a message.
        names: what the arrays of a bare list are called, in its order; all names of a tied one, with ``=`` between.
            A list (Flower names its arrays 0, 1, 2, ...) of another length keeps its numbers.

    Raises:
        IntegrityError: what it carries is no model, or larger than any.
    """
    weights = read_model(record, _LARGEST)
    if len(names) == len(weights) and list(weights) == [str(number) for number in range(len(weights))]:
        return {name: array for tied, array in zip(names, weights.values(), strict=True) for name in tied.split("=")}
    return weights


def round_in(message: Message) -> int | None:
    """Return the server's round that ``message`` names, in a config or as its group; None: it names none."""
    for config in message.content.config_records.values():
        for key in _ROUND_KEYS:
            value = config.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
                return value
    group = message.metadata.group_id
    return int(group) if group and group.isdecimal() and len(group) < 10 else None


def is_training(message_type: str) -> bool:
    """Return whether a message of this type asks to train: it then carries the model after the round before."""
    return message_type.split(".", maxsplit=1)[0] == "train"


def model_round(message: Message, seen: Sequence[str], sha: str) -> int:
    """Return the round after which the server had the model of ``message``.

    Args:
        message: names its round, or does not.
        seen: hashes of the models received before, each once, in order: where no round is named, models are counted.
        sha: hash of this model.
    """
    named = round_in(message)
    if named is not None:
        return max(0, named - 1) if is_training(message.metadata.message_type) else named
    return list(seen).index(sha) if sha in seen else len(seen)
