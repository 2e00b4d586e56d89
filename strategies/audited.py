"""A mixin that makes any Flower strategy deterministic, resumable and accountable. It changes no aggregation rule.

- rounds are numbered from ``offset`` on, so that a resumed run continues its count;
- participants come from ``Selection`` (seeded, by partition), not from global random state;
- every reply is read by ``fedinverse.messages`` first; what does not fit is refused, named and noted, and the round
  goes on. Of the others a strategy is shown numbers and arrays alone, in the order of their partitions: float
  addition does not commute, and two identical runs would differ otherwise;
- an update that is ``max_update_norm`` times as long as the round's median is refused, too;
- BatchNorm buffers go past the strategy and are plainly averaged: a server optimiser or noise would break them. Only
  rules that pick among updates (Krum, the median) are shown the float ones; the step counter is never;
- arrays keep the dtype they were sent with (averaging makes BatchNorm's step counter a float);
- with ``averaging = "unweighted"`` every client counts the same, whatever its number of images;
- an aggregate that is not finite, or that a strategy cannot make, leaves the model as it was;
- everything sent is written to the ledger, everything told by clients to ``clients.jsonl``.
"""

import gc
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, ClassVar, TypeVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedinverse.arrays import from_record, to_record
from fedinverse.errors import RefusedReplyError
from fedinverse.messages import (
    ARRAYS,
    CLIPPING,
    CONFIG,
    EXAMPLES,
    METRICS,
    Update,
    Weights,
    read_evaluation,
    read_update,
)
from fedinverse.storage import check_finite
from fedinverse.words import plain
from strategies.averaging import weighted_mean
from strategies.central_privacy import Private
from strategies.client_reports import ClientReports
from strategies.grids import ChosenNodes
from strategies.ledger import Ledger
from strategies.outliers import far_off
from strategies.participation import Selection
from strategies.watch import note_updates

log = logging.getLogger("fedinverse.server")
flower_log = logging.getLogger("flwr")  # a client that fails is named where Flower reports the round
EQUAL_WEIGHT = "equal-weight"  # the metric that unweighted averages weigh by: 1 for everyone
T = TypeVar("T")


class Audited:
    """Put before a Flower strategy: ``class AuditedFedAvg(Audited, FedAvg)``. Call ``begin`` before ``start``.

    Attributes:
        weighted_by: the metric that averages weigh by.
        shows_buffers: whether the strategy itself aggregates float buffers.
        max_update_norm: how many times the round's median an update may be long; 0: any length.
        watches: whether it is noted what can be seen of every update.
    """

    weighted_by: ClassVar[str] = EXAMPLES
    shows_buffers: ClassVar[bool] = False
    max_update_norm: ClassVar[float] = 0.0
    watches: ClassVar[bool] = False

    def begin(
        self,
        selection: Selection,
        ledger: Ledger,
        offset: int,
        buffers: Iterable[str] = (),
        examples: Mapping[int, int] | None = None,
    ) -> None:
        """Set what a federation needs beside its strategy.

        Args:
            offset: how many rounds lie behind.
            buffers: which arrays are buffers.
            examples: how many images the split gives each partition: the most it may say it trained on.
        """
        self._selection, self._ledger, self._offset = selection, ledger, offset
        self._buffers = frozenset(buffers)
        self._examples = examples or {}
        self._directory = ledger.path.parent
        self._reports = ClientReports(self._directory)
        self._before: Weights = {}
        self._adaptive = False
        self._early: dict[int, tuple[Message, Update]] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Address the train messages of a round to its participants."""
        current = server_round + self._offset
        self._before = from_record(arrays)
        chosen = ChosenNodes(grid, self._selection.train(current))
        aggregated, _ = self._parted(self._before)
        messages = list(super().configure_train(current, to_record(aggregated), config, chosen))  # type: ignore[misc]
        for message in messages:
            message.content[ARRAYS] = arrays
            self._adaptive = message.content[CONFIG].get(CLIPPING) == "adaptive"
        return self._note(current, messages)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Address the evaluate messages of a round."""
        current = server_round + self._offset
        nodes = self._selection.evaluate(current)
        if not nodes:
            return []
        messages = super().configure_evaluate(current, arrays, config, ChosenNodes(grid, nodes))  # type: ignore[misc]
        return self._note(current, messages)

    def read_early(self, reply: Message) -> None:
        """Read a reply to a train message while other clients still train; ``aggregate_train`` finds it read.

        What is to be refused is read again there, and refused.
        """
        partition = self._selection.partitions.get(reply.metadata.src_node_id)
        if partition is not None and reply.metadata.message_type == MessageType.TRAIN and not reply.has_error():
            with suppress(Exception):
                self._early[id(reply)] = reply, self._open(reply, partition)

    def _open(self, reply: Message, partition: int) -> Update:
        if id(reply) in self._early:
            return self._early[id(reply)][1]
        most = self._examples.get(partition)
        return read_update(reply, partition, self._before, most, adaptive=self._adaptive)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate the updates that are none to refuse, in the order of their partitions; their arrays are gone then.

        Flower holds the replies until the next round's are there, which would take twice the memory, and its views of
        records (``array_records``) hold themselves: circular garbage, for which our programs look rarely otherwise.
        """
        answers = list(replies)
        try:
            return self._aggregate_train(server_round + self._offset, self._by_partition(answers))
        finally:
            for reply in answers:
                if reply.has_content():
                    reply.content.pop(ARRAYS, None)
            gc.collect(0)

    def _aggregate_train(
        self, current: int, by_partition: Mapping[int, Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        refused: dict[int, str] = {}
        updates = self._read(current, by_partition, self._open, refused)
        self._early.clear()
        lengths = {partition: update.length for partition, update in updates.items()}
        for partition, reason in far_off(lengths, self._before, self.max_update_norm).items():
            refused[partition] = self._refuse(current, partition, reason)
            del updates[partition]
        central = self.accounted() if isinstance(self, Private) and not self._buffers else None
        self._reports.note(current, updates, refused, central)
        if self.watches:
            seen = {p: self._parted(update.weights)[0] for p, update in updates.items()}
            note_updates(self._directory, current, seen, self._before)
        if not updates:
            log.warning("round %d: no update could be used; the model stays as it was", current)
            return None, None
        try:
            arrays, metrics = self._aggregate(current, {p: by_partition[p] for p in updates}, updates)
            check_finite(arrays, "their aggregate")
        except Exception as error:  # whatever a strategy makes of these updates, the federation goes on
            log.warning(
                "round %d: the updates of clients %s could not be aggregated (%s); the model stays as it was",
                current,
                list(updates),
                plain(error),
                extra={"event": "no aggregate", "fields": {"round": current, "clients": list(updates)}},
            )
            return None, None
        return to_record(arrays), metrics

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Aggregate the metrics in the order of the partitions."""
        current = server_round + self._offset
        by_partition = self._by_partition(replies)
        read = self._read(current, by_partition, lambda reply, p: read_evaluation(reply, p, self._examples.get(p)), {})
        kept = [self._weighed(by_partition[p], RecordDict({METRICS: MetricRecord(m)})) for p, m in read.items()]
        try:
            return super().aggregate_evaluate(current, kept)  # type: ignore[misc]
        except Exception as error:  # figures on the console only
            log.warning("round %d: the clients' evaluations could not be averaged (%s)", current, plain(error))
            return None

    def _aggregate(
        self, current: int, replies: Mapping[int, Message], updates: Mapping[int, Update]
    ) -> tuple[Weights, MetricRecord | None]:
        passed, kept, counts = [], [], []
        for partition, update in updates.items():
            through, past = self._parted(update.weights)
            content = RecordDict({ARRAYS: to_record(through), METRICS: MetricRecord(dict(update.metrics))})
            passed.append(self._weighed(replies[partition], content))
            kept.append(past)
            counts.append(float(content[METRICS][self.weighted_by]))
        arrays, metrics = super().aggregate_train(current, passed)  # type: ignore[misc]
        if arrays is None:
            raise RefusedReplyError("the strategy needs more of them")
        both = {**from_record(arrays), **weighted_mean(kept, counts)}
        return {name: _as_dtype(both[name], old.dtype) for name, old in self._before.items()}, metrics

    def _read(
        self,
        current: int,
        replies: Mapping[int, Message],
        read: Callable[[Message, int], T],
        refused: dict[int, str],
    ) -> dict[int, T]:
        """Return what ``read`` makes of each reply; why one is not used goes into ``refused`` and, if new, the log."""
        values: dict[int, T] = {}
        for partition, reply in replies.items():
            try:
                values[partition] = read(reply, partition)
            except RefusedReplyError as error:
                if reply.has_error():
                    flower_log.info("round %d: client %d failed: %s", current, partition, error)
                    refused[partition] = str(error)
                else:
                    refused[partition] = self._refuse(current, partition, str(error))
            except Exception as error:  # the schema foresaw everything but this: still one client, by name
                reason = f"it cannot be read ({plain(f'{type(error).__name__}: {error}')})"
                refused[partition] = self._refuse(current, partition, reason)
        return values

    def _refuse(self, current: int, partition: int, reason: str) -> str:
        noted = {"event": "refused update", "fields": {"client": partition, "round": current, "reason": reason}}
        log.warning("round %d: the reply of client %d was refused: %s", current, partition, reason, extra=noted)
        return f"refused: {reason}"

    def _note(self, current: int, messages: Iterable[Message]) -> list[Message]:
        partitions = self._selection.partitions
        ordered = sorted(messages, key=lambda message: partitions[message.metadata.dst_node_id])
        self._ledger.record(current, ordered, partitions)
        return ordered

    def _by_partition(self, replies: Iterable[Message]) -> dict[int, Message]:
        """Return the replies in the order of their partitions; of a node that answered twice, the first."""
        partitions = self._selection.partitions
        known = [reply for reply in replies if reply.metadata.src_node_id in partitions]
        by_partition: dict[int, Message] = {}
        for reply in sorted(known, key=lambda reply: partitions[reply.metadata.src_node_id]):
            by_partition.setdefault(partitions[reply.metadata.src_node_id], reply)
        return by_partition

    def _weighed(self, reply: Message, content: RecordDict) -> Message:
        """Put ``content`` in the place of a reply's, with the weight of an unweighted average, if that is asked for."""
        if self.weighted_by == EQUAL_WEIGHT:
            content[METRICS][EQUAL_WEIGHT] = 1.0
        return Message(content, metadata=reply.metadata)

    def _parted(self, weights: Weights) -> tuple[Weights, Weights]:
        """Return (what the strategy aggregates, what goes past it), in the order of what was sent."""
        counters = {name for name, array in self._before.items() if array.dtype.kind in "iu"}
        past = counters if self.shows_buffers else counters | self._buffers
        return (
            {name: array for name, array in weights.items() if name not in past},
            {name: array for name, array in weights.items() if name in past},
        )


def _as_dtype(array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    return np.asarray(np.rint(array) if dtype.kind in "iu" else array, dtype)
