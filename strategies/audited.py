"""A mixin that makes any Flower strategy deterministic, resumable and accountable. It changes no aggregation rule.

- rounds are numbered from ``offset`` on, so that a resumed run continues its count;
- participants come from ``Selection`` (seeded, by partition), not from global random state;
- replies are put into the order of their partitions before aggregation: float addition does not commute, and two
  identical runs would differ otherwise;
- replies with NaN or with arrays of other names or shapes are refused and noted;
- BatchNorm buffers go past the strategy and are plainly averaged: a server optimiser or noise would break them. Only
  rules that pick among updates (Krum, the median) are shown the float ones; the step counter is never;
- arrays keep the dtype they were sent with (averaging makes BatchNorm's step counter a float);
- with ``averaging = "unweighted"`` every client counts the same, whatever its number of images;
- everything sent is written to the ledger, everything told by clients to ``clients.jsonl``.
"""

import logging
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from fedinverse.errors import IntegrityError
from fedinverse.flower import ARRAYS, METRICS, from_record
from fedinverse.storage import check_finite
from strategies.central_privacy import Private
from strategies.client_reports import ClientReports
from strategies.grids import ChosenNodes
from strategies.ledger import Ledger
from strategies.participation import Selection

log = logging.getLogger("fedinverse.server")
EQUAL_WEIGHT = "equal-weight"  # the metric that unweighted averages weigh by: 1 for everyone


class Audited:
    """Put before a Flower strategy: ``class AuditedFedAvg(Audited, FedAvg)``. Call ``begin`` before ``start``.

    Attributes:
        weighted_by: the metric that averages weigh by.
        shows_buffers: whether the strategy itself aggregates float buffers.
    """

    weighted_by: ClassVar[str] = "num-examples"
    shows_buffers: ClassVar[bool] = False

    def begin(self, selection: Selection, ledger: Ledger, offset: int, buffers: Iterable[str] = ()) -> None:
        """Set who takes part, where broadcasts are noted, how many rounds lie behind, which arrays are buffers."""
        self._selection, self._ledger, self._offset = selection, ledger, offset
        self._buffers = frozenset(buffers)
        self._reports = ClientReports(ledger.path.parent)
        self._sent: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Address the train messages of a round to its participants."""
        current = server_round + self._offset
        self._sent = {name: (array.shape, array.dtype) for name, array in from_record(arrays).items()}
        chosen = ChosenNodes(grid, self._selection.train(current))
        shown, _ = self._parted(arrays)
        messages = list(super().configure_train(current, shown, config, chosen))  # type: ignore[misc]
        for message in messages:
            message.content[ARRAYS] = arrays
        return self._note(current, messages)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Address the evaluate messages of a round."""
        current = server_round + self._offset
        nodes = self._selection.evaluate(current)
        if not nodes:
            return []
        made = super().configure_evaluate(current, arrays, config, ChosenNodes(grid, nodes))  # type: ignore[misc]
        return self._note(current, made)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate the sound replies in the order of their partitions."""
        current = server_round + self._offset
        ordered = self._ordered(replies)
        central = self.accounted() if isinstance(self, Private) and not self._buffers else None
        self._reports.note(current, ordered, self._selection.partitions, central)
        failed = [reply for reply in ordered if reply.has_error()]
        sound = self._weigh([reply for reply in ordered if not reply.has_error() and self._is_sound(reply)])
        kept = []
        for reply in sound:
            shown, past = self._parted(reply.content[ARRAYS])
            kept.append(RecordDict({ARRAYS: past, METRICS: reply.content[METRICS]}))
            reply.content[ARRAYS] = shown
        arrays, metrics = super().aggregate_train(current, [*failed, *sound])  # type: ignore[misc]
        if arrays is None:
            log.warning("round %d: no update could be used; the model stays as it was", current)
            return None, metrics
        both = {**arrays, **aggregate_arrayrecords(kept, self.weighted_by)}
        result = {name: Array(_as_dtype(both[name].numpy(), dtype)) for name, (_, dtype) in self._sent.items()}
        return ArrayRecord(result), metrics

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Aggregate the metrics in the order of the partitions."""
        ordered = self._weigh(self._ordered(replies))
        return super().aggregate_evaluate(server_round + self._offset, ordered)  # type: ignore[misc]

    def _note(self, current: int, messages: Iterable[Message]) -> list[Message]:
        partitions = self._selection.partitions
        ordered = sorted(messages, key=lambda message: partitions[message.metadata.dst_node_id])
        self._ledger.record(current, ordered, partitions)
        return ordered

    def _ordered(self, replies: Iterable[Message]) -> list[Message]:
        partitions = self._selection.partitions
        return sorted(replies, key=lambda reply: partitions[reply.metadata.src_node_id])

    def _weigh(self, replies: list[Message]) -> list[Message]:
        """Give every reply the weight of an unweighted average, if that is asked for."""
        if self.weighted_by == EQUAL_WEIGHT:
            for reply in replies:
                if not reply.has_error() and METRICS in reply.content:
                    reply.content[METRICS][EQUAL_WEIGHT] = 1.0
        return replies

    def _parted(self, arrays: ArrayRecord) -> tuple[ArrayRecord, ArrayRecord]:
        """Return (what the strategy aggregates, what goes past it), in the order of what was sent.

        Some of Flower's strategies pair arrays by position; whoever sends them in another order must not matter.
        """
        counters = {name for name, (_, dtype) in self._sent.items() if np.issubdtype(dtype, np.integer)}
        past = counters if self.shows_buffers else counters | self._buffers
        return (
            ArrayRecord({name: arrays[name] for name in self._sent if name not in past}),
            ArrayRecord({name: arrays[name] for name in self._sent if name in past}),
        )

    def _is_sound(self, reply: Message) -> bool:
        partition = self._selection.partitions[reply.metadata.src_node_id]
        origin = f"the update of client {partition}"
        weights = from_record(reply.content[ARRAYS]) if ARRAYS in reply.content else {}
        shapes = {name: array.shape for name, array in weights.items()}
        noted = {"event": "refused update", "fields": {"client": partition}}
        if shapes != {name: shape for name, (shape, _) in self._sent.items()}:
            log.warning(
                "%s was refused: its arrays do not have the names and shapes of the global model", origin, extra=noted
            )
            return False
        try:
            check_finite(weights, origin)
        except IntegrityError as error:
            log.warning("%s; it was refused", error, extra=noted)
            return False
        return True


def _as_dtype(array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    return np.asarray(np.rint(array) if np.issubdtype(dtype, np.integer) else array, dtype)
