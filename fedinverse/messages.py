"""Every message between server and clients, typed: its records, keys, types and ranges stand here and nowhere else.

What a client sends is read by ``read_update``, ``read_evaluation`` and ``read_partition``, and by nothing before them:
each checks a reply against one schema (exact records and keys, the dtype kind of every array, its encoded size before
it is decoded, finite numbers, ranges, lengths of text) and returns plain typed values. Whatever does not fit raises
``RefusedReplyError`` with the reason.

What the server sends is read by ``read_instructions`` and ``read_model``: a hostile server is held to the same rules.

Keys are kebab-case as Flower users expect. Attacker settings never travel in a message, and no seed does.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedinverse.arrays import decode, opened, size_of
from fedinverse.errors import ConfigError, IntegrityError, RefusedReplyError
from fedinverse.norms import square
from fedinverse.words import TEXT, plain

ARRAYS, CONFIG, METRICS, CLIENT = "arrays", "config", "metrics", "client"
WHO_QUERY = "query.who"
PROXIMAL_MU = "proximal-mu"  # in a train message's config: weight of FedProx' proximal term, as Flower names it
CLIPPING = "clipping"  # in a train message's config: which of Flower's mods clips the update, "fixed" or "adaptive"
SECURE = "secure-aggregation"  # a train message's record: how updates are weighted and how large they may be

EXAMPLES, NORM_BIT, PARTITION, ROUND = "num-examples", "norm_bit", "partition", "server-round"
TRAINED, EVALUATED = ("train-loss", "train-accuracy"), ("eval-loss", "eval-accuracy")

_LARGEST = 1e30  # a loss beyond it is no figure that anyone reads, and sums of it overflow
_CLASSES, _ROUNDS = 100_000, 10**6
_STEPS = 2**31  # how far an integer buffer, BatchNorm's step counter, may move in a round
_NAME = re.compile(r"[\w.:/+-]{1,100}", re.ASCII)
_NOTE = re.compile(r"note\.[a-z0-9_]{1,40}")
_NOTES = 16  # figures of its own that a defence may add
# What a defence says of its differential privacy in a round: all four, or none. Beyond these bounds no accountant's
# figure means anything, and reckoning it may take for ever.
_PRIVACY = {
    "dp_noise_multiplier": (0.0, 1e6),
    "dp_sample_rate": (1e-12, 1.0),
    "dp_steps": (0.0, 1e8),
    "delta": (1e-30, 1.0 - 1e-9),
}
_SPENT = "epsilon_round"

Weights = dict[str, NDArray[Any]]
Shapes = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]


@dataclass(frozen=True)
class Update:
    """A client's reply to a train message.

    Attributes:
        weights: the arrays asked for, in their order and dtypes, all finite; empty if none were.
        length: L2 norm of what training changed of them, over float arrays; beyond 1e19 it is infinite.
        examples: number of images, at least 1.
        metrics: ``num-examples``, ``train-loss``, ``train-accuracy`` and, with adaptive clipping, ``norm_bit``.
        report: the defence's name and what it tells of itself, without the partition.
    """

    weights: Weights
    length: float
    examples: int
    metrics: dict[str, int | float]
    report: dict[str, str | int | float]


def shapes_of(weights: Mapping[str, NDArray[Any]]) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return the shape and dtype of every array: what an update of them must have."""
    return {name: (array.shape, array.dtype) for name, array in weights.items()}


# ---------------------------------------------------------------- what the server sends


@dataclass(frozen=True)
class Instructions:
    """What a server tells a client beside the weights.

    Attributes:
        width: of its hidden layers, in (0, 4].
        server_round: from 1 on.
        training: hyper-parameters, as they came; whoever trains checks them.
        proximal_mu: weight of FedProx' proximal term.
    """

    model: str
    width: float
    classes: int
    server_round: int
    training: dict[str, Any]
    proximal_mu: float

    @staticmethod
    def record(model: str, width: float, classes: int, training: Mapping[str, Any]) -> ConfigRecord:
        """Return the record that the server puts into its messages; the strategy adds the round."""
        return ConfigRecord({**training, "model": model, "width": width, "classes": classes})


def read_instructions(content: RecordDict, training: Collection[str]) -> Instructions:
    """Return what a message's config says; ``training`` names its hyper-parameters.

    Raises:
        ConfigError: a key is missing, of another type or out of range; the message names it.
    """
    config = content.get(CONFIG)
    if not isinstance(config, ConfigRecord):
        raise ConfigError(f"the server's message has no record '{CONFIG}'")
    missing = [key for key in ("model", "width", "classes", ROUND, *training) if key not in config]
    if missing:
        raise ConfigError(f"the server's message: '{missing[0]}' is missing")
    model = config["model"]
    if not isinstance(model, str) or not 0 < len(model) <= TEXT:
        raise ConfigError("the server's message: 'model' must be a name of at most 300 characters")
    try:
        width = _number(config["width"], "'width'", 1e-6, 4.0)
        classes, server_round = _integer(config["classes"], "'classes'"), _integer(config[ROUND], f"'{ROUND}'")
        proximal_mu = _number(config.get(PROXIMAL_MU, 0.0), f"'{PROXIMAL_MU}'", 0.0, _LARGEST)
    except RefusedReplyError as error:
        raise ConfigError(f"the server's message: {error}") from None
    if not 2 <= classes <= _CLASSES or not 0 <= server_round <= _ROUNDS:
        raise ConfigError(
            f"the server's message: 'classes' is {classes} and '{ROUND}' {server_round}; they must be from 2 to "
            f"{_CLASSES} and from 0 to {_ROUNDS}"
        )
    return Instructions(model, width, classes, server_round, {key: config[key] for key in training}, proximal_mu)


def read_model(record: object, most_bytes: int) -> Weights:
    """Return the arrays of a server's message, after their size, ``most_bytes`` at most, and their headers.

    They are views of the message and cannot be written.

    Raises:
        IntegrityError: larger, not in numpy's format, no numbers, or truncated; the message names the array.
    """
    if not isinstance(record, ArrayRecord):
        raise IntegrityError("the received global model is no record of arrays")
    size = sum(size_of(array) for array in record.values())
    if size > most_bytes:
        raise IntegrityError(
            f"the received global model has {size / 1e6:.0f} MB, more than this node's operator allows "
            f"({most_bytes / 1e6:.0f} MB; 'max-model-mb' in the node config)"
        )
    try:
        return {name: opened(array, name) for name, array in record.items()}
    except RefusedReplyError as error:
        raise IntegrityError(f"the received global model: {error}") from None


# ---------------------------------------------------------------- what clients answer


def read_partition(reply: Message, clients: int) -> int:
    """Return the partition that a node says it is, in [0, ``clients``)."""
    record = _records(reply, {CLIENT: ConfigRecord})[CLIENT]
    _keys(record, {PARTITION}, (), "who it is")
    partition = _integer(record[PARTITION], "partition")
    if not 0 <= partition < clients:
        raise RefusedReplyError(f"it says it is partition {partition}; they run from 0 to {clients - 1}")
    return partition


def read_update(
    reply: Message,
    partition: int,
    before: Weights,
    most_examples: int | None = None,
    *,
    adaptive: bool = False,
) -> Update:
    """Return the update of ``partition`` to the weights ``before``.

    Args:
        partition: who the node is, as the server knows it.
        before: what it was sent.
        most_examples: how many images the split manifest gives this client; None: not known.
        adaptive: whether adaptive clipping asks for its bit.

    Raises:
        RefusedReplyError: with the reason.
    """
    records = _records(reply, {ARRAYS: ArrayRecord, METRICS: MetricRecord, CLIENT: ConfigRecord})
    extra = (NORM_BIT,) if adaptive else ()
    metrics = read_metrics(records[METRICS], (*TRAINED, *extra), most_examples)
    report = read_report(records[CLIENT], partition)
    weights, length = read_arrays(records[ARRAYS], before)
    return Update(weights, length, int(metrics[EXAMPLES]), metrics, report)


def read_evaluation(reply: Message, partition: int, most_examples: int | None = None) -> dict[str, int | float]:
    """Return ``num-examples``, ``eval-loss`` and ``eval-accuracy`` of a reply to an evaluate message."""
    records = _records(reply, {METRICS: MetricRecord, CLIENT: ConfigRecord})
    _keys(records[CLIENT], {PARTITION}, (), "its report")
    _own_partition(records[CLIENT][PARTITION], partition)
    return read_metrics(records[METRICS], EVALUATED, most_examples)


def read_metrics(
    record: MetricRecord, asked: tuple[str, ...], most_examples: int | None = None
) -> dict[str, int | float]:
    """Return ``num-examples`` and the ``asked`` figures, all finite and in range, in this order."""
    _keys(record, {EXAMPLES, *asked}, (), "its metrics")
    examples = _integer(record[EXAMPLES], EXAMPLES)
    if examples < 1 or (most_examples is not None and examples > most_examples):
        bound = "" if most_examples is None else f" and at most the {most_examples} the split gives it"
        raise RefusedReplyError(f"{EXAMPLES} is {examples}; it must be at least 1{bound}")
    figures: dict[str, int | float] = {EXAMPLES: examples}
    for name in asked:
        if name == NORM_BIT:
            figures[name] = _integer(record[name], name)
            if figures[name] not in (0, 1):
                raise RefusedReplyError(f"{name} is {figures[name]}; it must be 0 or 1")
            continue
        low, high = (0.0, 1.0) if name.endswith("accuracy") else (-_LARGEST, _LARGEST)
        figures[name] = _number(record[name], name, low, high)
    return figures


def read_report(record: ConfigRecord, partition: int) -> dict[str, str | int | float]:
    """Return what a defence tells of itself: known keys, in range, without the partition, which is the server's to say.

    Beside the keys of differential privacy a defence of somebody else's may add up to 16 figures ``note.NAME``.
    """
    notes = [key for key in record if isinstance(key, str) and _NOTE.fullmatch(key)] if len(record) < 100 else []
    _keys(record, {PARTITION}, ("defence", _SPENT, *_PRIVACY, *notes[:_NOTES]), "its report")
    _own_partition(record[PARTITION], partition)
    report: dict[str, str | int | float] = {}
    if "defence" in record:
        name = record["defence"]
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise RefusedReplyError("the name of its defence is not 1 to 100 letters, digits and . : / + - _")
        report["defence"] = name
    privacy = [key for key in _PRIVACY if key in record]
    if privacy and len(privacy) < len(_PRIVACY):
        missing = next(key for key in _PRIVACY if key not in record)
        raise RefusedReplyError(f"its report on differential privacy lacks '{missing}'")
    for key in privacy:
        report[key] = _number(record[key], key, *_PRIVACY[key])
    if privacy and float(report["dp_steps"]) != int(report["dp_steps"]):
        raise RefusedReplyError(f"dp_steps is {report['dp_steps']:g}; it must be a whole number")
    if _SPENT in record:  # infinite without noise
        spent = record[_SPENT]
        infinite = isinstance(spent, float) and spent == math.inf
        report[_SPENT] = math.inf if infinite else _number(spent, _SPENT, 0.0, math.inf)
    for key in notes:
        report[key] = _number(record[key], key, -_LARGEST, _LARGEST)
    return report


def read_arrays(record: ArrayRecord, before: Weights) -> tuple[Weights, float]:
    """Return the arrays of ``record``, which must be those of ``before``: names, shapes, dtype kinds, finite values.

    They come in the order and the dtypes of ``before``: some of Flower's strategies pair arrays by position. Beside
    them comes how far they are from ``before``, see ``Update``.
    """
    if record.keys() != before.keys():
        missing, extra = sorted(before.keys() - record.keys()), sorted(set(record.keys()) - before.keys(), key=str)
        names = [*(f"lacks '{name}'" for name in missing[:2]), *(f"adds '{plain(name, 60)}'" for name in extra[:2])]
        raise RefusedReplyError(f"its arrays are not the global model's: it {', '.join(names)}")
    weights, squares = {}, 0.0
    for name, old in before.items():
        weights[name], moved = _array(record[name], name, old)
        squares += moved
    return weights, math.sqrt(squares)


def _array(array: Any, name: str, old: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """Return the values, and the square of how far they moved, if they are floats."""
    values = decode(array, f"array '{name}'", old.shape, old.dtype)
    if old.dtype.kind in "iu":
        if np.any(np.abs(values.astype(np.float64) - old) > _STEPS):
            raise RefusedReplyError(f"array '{name}' moves by more than {_STEPS} in a round")
        return values, 0.0
    moved = square(values, old) if old.dtype.kind == "f" else math.nan
    if not math.isfinite(moved) and not np.isfinite(values).all():
        raise RefusedReplyError(f"array '{name}' holds NaN or infinite values")
    if name.rsplit(".", maxsplit=1)[-1] == "running_var" and np.any(values < 0):
        raise RefusedReplyError(f"array '{name}' is a variance and holds negative values")
    return values, moved if old.dtype.kind == "f" else 0.0


# ---------------------------------------------------------------- what a schema consists of


def _records(reply: Message, kinds: Mapping[str, type]) -> Any:
    if reply.has_error():
        raise RefusedReplyError(plain(reply.error.reason))
    content = reply.content
    _keys(content, set(kinds), (), "its reply")
    for name, kind in kinds.items():
        if not isinstance(content[name], kind):
            raise RefusedReplyError(f"its record '{name}' is no {kind.__name__}")
    return content


def _keys(record: Collection[Any], needed: set[str], allowed: Collection[str], what: str) -> None:
    missing = sorted(needed - set(record))
    if missing:
        raise RefusedReplyError(f"{what} lacks '{missing[0]}'")
    extra = [key for key in record if key not in needed and key not in allowed]
    if extra:
        more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        raise RefusedReplyError(f"{what} holds '{plain(extra[0], 60)}'{more}, which nobody asked for")


def _own_partition(claimed: object, partition: int) -> None:
    if _integer(claimed, PARTITION) != partition:
        raise RefusedReplyError(f"it says it is client {plain(claimed, 40)}")


def _integer(value: object, what: str) -> int:
    if type(value) is not int:
        raise RefusedReplyError(f"{what} is {_described(value)}, no whole number")
    if not -(2**63) <= value < 2**63:
        raise RefusedReplyError(f"{what} is a number of more than 63 bits")
    return value


def _number(value: object, what: str, low: float, high: float) -> float:
    if type(value) not in (int, float):
        raise RefusedReplyError(f"{what} is {_described(value)}, no number")
    number = value if isinstance(value, float) else float(_integer(value, what))
    if not math.isfinite(number) or not low <= number <= high:
        raise RefusedReplyError(f"{what} is {number:g}; it must be finite, from {low:g} to {high:g}")
    return number


def _described(value: object) -> str:
    if isinstance(value, str):
        return f"the text '{plain(value, 40)}'"
    return str(value) if isinstance(value, bool | float) else f"of type {type(value).__name__}"
