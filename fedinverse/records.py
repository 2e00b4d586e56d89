"""The files of lines that one role writes and others read, each kind of line as one type.

A field is written under its name with hyphens (``victim_accuracy`` as ``victim-accuracy``); one that has its default is
left out. Lines are only ever appended, so of a round that was repeated after a kill there are two.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from pydantic import BaseModel, TypeAdapter, ValidationError

from fedinverse.errors import IntegrityError
from fedinverse.storage import append_jsonl, file_sha256, read_jsonl, read_metadata, read_object, typed, write_json

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
Noise = Literal["own", "central"]
"""Whose noise: a client's own, or that on the average of all."""


@dataclass(frozen=True)
class RoundLine:
    """One round of a federation, in ``rounds.jsonl``: a round counts when its line is there.

    Attributes:
        round: 0 before training.
        accuracy: of the global model on images that are in no training set; in [0, 1], as all shares are.
        loss: mean cross-entropy per image on them.
        victim_accuracy: on the victim's classes; None without any.
        class_accuracy: of each class.
        sha256: hash of the global model.
        strategy_sha256: of what the strategy remembers for the next round; empty: nothing.
    """

    round: int
    accuracy: float
    loss: float
    victim_accuracy: float | None
    class_accuracy: tuple[float, ...]
    sha256: str
    strategy_sha256: str = ""

    @classmethod
    def of(cls, number: int, utility: Mapping[str, Any], sha256: str, strategy_sha256: str = "") -> "RoundLine":
        """Return the line of round ``number`` with what ``server.utility`` says of its model."""
        values = {key.replace("-", "_"): value for key, value in utility.items()}
        return cls(number, **values, sha256=sha256, strategy_sha256=strategy_sha256)

    @property
    def figures(self) -> dict[str, float]:
        """Its figures over all images, by their names in the file; those that there are."""
        named = {"accuracy": self.accuracy, "loss": self.loss, "victim-accuracy": self.victim_accuracy}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True)
class LedgerLine:
    """One message that the server sent, in ``ledger.jsonl``: what a capture is held against.

    Attributes:
        round: in which it was sent.
        message_type: ``train``, ``evaluate``, ...
        node: Flower's id of the receiver, as text: it exceeds what JSON numbers hold exactly.
        sha256: hash of the model it carried.
        partition: the receiver's; None where whoever wrote the line does not know it.
    """

    round: int
    message_type: str
    node: str
    sha256: str
    partition: int | None = None


@dataclass(frozen=True)
class Receipt:
    """One message that a malicious node received, in ``receipts.jsonl`` of its spool.

    Attributes:
        round: in which it was sent.
        model_round: after which the server had the model.
        message_type: ``train``, ``evaluate``, ...
        sha256: hash of the model.
        file: name of the spool's file that holds it.
        node: Flower's id of the node, as text.
        time: when it came, seconds since 1970.
    """

    round: int
    model_round: int
    message_type: str
    sha256: str
    file: str
    node: str
    time: float = 0.0


@dataclass(frozen=True)
class ClientLine:
    """What came of one train message, in ``clients.jsonl``.

    Attributes:
        round: in which it was sent.
        partition: whose it is.
        figures: what the client reported, under its own words, and what the server accounts for it; a number that JSON
            has not (the epsilon of no noise) is text.
        error: why there is no update; empty: there is one.
    """

    round: int
    partition: int
    figures: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""

    @classmethod
    def read_all(cls, path: Path) -> "list[ClientLine]":
        """Return the lines of ``path``; none: there is no such file.

        Raises:
            IntegrityError: a line does not say whose it is or of which round.
        """
        lines = []
        for row in read_jsonl(path):
            number, partition, error = row.pop("round", None), row.pop("partition", None), row.pop("error", "")
            if type(number) is not int or type(partition) is not int or not isinstance(error, str):
                raise IntegrityError(f"{path}: a line is no client's report; it was altered, delete its directory")
            lines.append(cls(number, partition, row, error))
        return lines

    @property
    def row(self) -> dict[str, Any]:
        """The line as it is written: its own keys, last, win over those of ``figures``."""
        said = {"error": self.error} if self.error else {}
        return {**self.figures, **said, "round": self.round, "partition": self.partition}


def write_record(path: Path, record: Any) -> None:
    """Write ``record``, a dataclass, as a JSON object, its names with hyphens."""
    write_json(path, {name.replace("_", "-"): value for name, value in asdict(record).items()})


def read_record(kind: type[T], path: Path) -> T:
    """Return what ``write_record`` wrote; keys that ``kind`` does not know are passed over.

    Raises:
        IntegrityError: a key is missing or of another type; names file and key.
    """
    known = {each.name for each in fields(cast(Any, kind))}
    stored = {key.replace("-", "_"): value for key, value in read_object(path).items()}
    return typed(kind, {key: value for key, value in stored.items() if key in known}, path)


@dataclass(frozen=True)
class ModelFile:
    """What the metadata of a weights file say of the model in it; another party may have written them.

    Its network, number of classes and width are read by ``fedinverse.models.claimed``.

    Attributes:
        sha256: of the weights; empty: it is not said.
        round: of the federation, after which the server had it; -1: it is not said.
    """

    sha256: str = ""
    round: int = -1

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> "ModelFile":
        """Return what ``metadata`` say."""
        number = metadata.get("model-round", "")
        return cls(metadata.get("sha256", ""), int(number) if number.isdecimal() else -1)

    @classmethod
    def read(cls, path: Path) -> "ModelFile":
        """Return what the file at ``path`` says; a damaged one raises ``IntegrityError``."""
        return cls.of(read_metadata(path))

    @staticmethod
    def metadata(server_round: int, about: Mapping[str, str | int | float]) -> dict[str, str | int | float]:
        """Return the metadata of the model after ``server_round``; ``about``: network, classes and width."""
        return {"model-round": server_round, **about}


@dataclass(frozen=True)
class PrivacySpent:
    """One client's account in ``privacy.json``; of each kind of noise epsilon and delta, or neither.

    Attributes:
        defence: by its registered name.
        rounds: in which noise was accounted.
        epsilon: spent by its own noise; infinite where the noise protects nothing.
        delta: of that account.
        central_epsilon: spent by the noise on the average.
        central_delta: of that account.
    """

    defence: str = "none"
    rounds: int = 0
    epsilon: float | None = None
    delta: float | None = None
    central_epsilon: float | None = None
    central_delta: float | None = None

    @property
    def spent(self) -> dict[Noise, tuple[float, float]]:
        """Whose noise -> epsilon and delta."""
        accounts: dict[Noise, tuple[float | None, float | None]] = {
            "own": (self.epsilon, self.delta),
            "central": (self.central_epsilon, self.central_delta),
        }
        return {noise: (e, delta) for noise, (e, delta) in accounts.items() if e is not None and delta is not None}

    @classmethod
    def read_all(cls, path: Path) -> "dict[int, PrivacySpent]":
        """Return the accounts in ``path`` by partition; none: there is no such file.

        Raises:
            IntegrityError: an entry is no account; names file and key.
        """
        accounts = {}
        for partition, entry in (read_object(path) if path.exists() else {}).items():
            if not (partition.isdecimal() and isinstance(entry, dict)):
                raise IntegrityError(f"{path}: '{partition}' is no client's account; the file was altered")
            values = {key: math.inf if value == "inf" else value for key, value in entry.items()}
            accounts[int(partition)] = typed(cls, values, path)
        return accounts

    @staticmethod
    def write_all(path: Path, accounts: "Mapping[int, PrivacySpent]") -> None:
        """Write the accounts by partition; JSON has no number for infinity."""
        rows = {str(partition): asdict(account) for partition, account in sorted(accounts.items())}
        filled = {
            partition: {key: "inf" if value == math.inf else value for key, value in row.items() if value is not None}
            for partition, row in rows.items()
        }
        write_json(path, filled)


@dataclass(frozen=True)
class AuditSummary:
    """What an audit was made from, and the files that it wrote; written last.

    Attributes:
        inputs: hash of all that it follows from.
        ceiling: share of real reserve images that E1 reads.
        open_ceiling: share that both open evaluators read.
        products: name of a file -> its SHA-256.
    """

    inputs: str
    ceiling: float
    open_ceiling: float
    products: dict[str, str]

    @staticmethod
    def stands(path: Path, inputs: str, products: Sequence[Path]) -> bool:
        """Return whether the audit at ``path`` was made from ``inputs`` and ``products`` are there as it wrote them."""
        if not path.exists():
            return False
        try:
            summary = read_record(AuditSummary, path)
            written = {each.name: file_sha256(each) for each in products if each.is_file()}
        except IntegrityError:
            return False  # it is made again
        return summary.inputs == inputs and summary.products == written


def read_model(kind: type[M], path: Path, remedy: str) -> M:
    """Return the JSON object at ``path`` as the pydantic model ``kind``.

    Args:
        remedy: what the reader of a refusal should do, such as "audit the run again".

    Raises:
        IntegrityError: damaged, or a key does not fit; names file, key and remedy.
    """
    return as_model(kind, read_object(path), path, remedy)


def as_model(kind: type[M], document: Mapping[str, Any], path: Path, remedy: str) -> M:
    """Return ``document``, read from ``path``, as the pydantic model ``kind``; errors as ``read_model``'s."""
    try:
        return kind.model_validate_json(json.dumps(document))
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise IntegrityError(f"{path}: '{place}': {problem['msg']}; {remedy}") from None


def append_lines(path: Path, lines: Sequence[Any]) -> None:
    """Append ``lines``, all records of this module, durably."""
    append_jsonl(path, *map(_row, lines))


def read_lines(kind: type[T], path: Path) -> list[T]:
    """Return the lines of ``path``; none: there is no such file. Keys that ``kind`` does not know are passed over.

    Raises:
        IntegrityError: a line lacks a key or holds a value of another type; names file, line and key.
    """
    rows = [{key.replace("-", "_"): value for key, value in row.items()} for row in read_jsonl(path)]
    try:
        return cast(list[T], _adapter(cast(Any, kind)).validate_json(json.dumps(rows), strict=True))
    except ValidationError as error:
        problem = error.errors()[0]
        number, *key = problem["loc"]
        place = ".".join(map(str, key)).replace("_", "-")
        raise IntegrityError(
            f"{path}: line {int(number) + 1}: '{place}': {problem['msg']}; it was altered, delete its directory"
        ) from None


def _row(line: Any) -> dict[str, Any]:
    if isinstance(line, ClientLine):
        return line.row
    values = {each: getattr(line, each.name) for each in fields(line)}
    return {
        each.name.replace("_", "-"): value
        for each, value in values.items()
        if each.default is MISSING or value != each.default
    }


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(list[kind])  # type: ignore[valid-type]
