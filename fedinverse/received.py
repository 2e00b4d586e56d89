"""What a Flower message carries, whoever wrote the app: its arrays, under whatever record name, and its round."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict
from numpy.typing import NDArray

from fedinverse.arrays import size_of
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
    return sum(size_of(array) for array in record.values())


def weights_in(record: ArrayRecord, names: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """Return the arrays of ``record`` by name (npy without pickle; sizes and headers are looked at first).

    Args:
        names: what the arrays of a bare list are called, in its order; all names of a tied one, with ``=`` between.
            A list (Flower names its arrays 0, 1, 2, ...) of another length keeps its numbers.

    Raises:
        IntegrityError: what it carries is no model, or larger than any.
    """
    weights = read_model(record, _LARGEST)
    if len(names) == len(weights) and list(weights) == [str(number) for number in range(len(weights))]:
        return {name: array for tied, array in zip(names, weights.values(), strict=True) for name in tied.split("=")}
    return weights


def trained(sent: Mapping[str, NDArray[Any]], replied: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the weights that a client ended its training with: its reply or, where it sends updates, the sum.

    A reply counts as an update if most of its values lie in arrays that are nearer to nothing than to what was sent.
    For a change that is unrelated to the weights this tells the two apart however large it is.
    """
    compared = [name for name, array in replied.items() if np.issubdtype(array.dtype, np.floating)]
    if {name: array.shape for name, array in sent.items()} != {name: array.shape for name, array in replied.items()}:
        return dict(replied)
    small = [name for name in compared if _norm(replied[name]) < _norm(replied[name] - sent[name])]
    if 2 * sum(replied[name].size for name in small) <= sum(replied[name].size for name in compared):
        return dict(replied)
    return {name: np.asarray(sent[name] + array, sent[name].dtype) for name, array in replied.items()}


def _norm(array: NDArray[Any]) -> float:
    return float(np.linalg.norm(array.astype(np.float64).ravel()))


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


def names_round_zero(message: Message) -> bool:
    """Return whether ``message`` asks to train in a round 0: its app counts from 0, where Flower counts from 1."""
    return is_training(message.metadata.message_type) and round_in(message) == 0


def model_round(message: Message, seen: Sequence[str], sha: str, first: int = 1) -> int:
    """Return the round after which the server had the model of ``message``.

    Args:
        seen: hashes of the models received before, each once, in order: where no round is named, models are counted.
        first: what the app calls its first round.
    """
    named = round_in(message)
    if named is not None:
        return max(0, named - first) if is_training(message.metadata.message_type) else named + 1 - first
    return list(seen).index(sha) if sha in seen else len(seen)
