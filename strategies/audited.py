"""A mixin that makes any Flower strategy deterministic, resumable and accountable. It changes no aggregation rule.

- rounds are numbered from ``offset`` on, so that a resumed run continues its count;
- participants come from ``Selection`` (seeded, by partition), not from global random state;
- replies are put into the order of their partitions before aggregation: float addition does not commute, and two
  identical runs would differ otherwise;
- replies with NaN or with arrays of other names or shapes are refused and noted;
- arrays keep the dtype they were sent with (averaging makes BatchNorm's step counter a float);
- everything sent is written to the ledger.
"""

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from fedinverse.errors import IntegrityError
from fedinverse.flower import ARRAYS, from_record
from fedinverse.storage import check_finite
from strategies.ledger import Ledger
from strategies.participation import ChosenNodes, Selection

log = logging.getLogger("fedinverse.server")


class Audited:
    """Put before a Flower strategy: ``class AuditedFedAvg(Audited, FedAvg)``. Call ``begin`` before ``start``."""

    def begin(self, selection: Selection, ledger: Ledger, offset: int) -> None:
        """Set who takes part, where broadcasts are noted and how many rounds lie behind."""
        self._selection, self._ledger, self._offset = selection, ledger, offset
        self._sent: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Address the train messages of a round to its participants."""
        current = server_round + self._offset
        self._sent = {name: (array.shape, array.dtype) for name, array in from_record(arrays).items()}
        chosen = ChosenNodes(grid, self._selection.train(current))
        return self._note(current, super().configure_train(current, arrays, config, chosen))  # type: ignore[misc]

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
        ordered = self._ordered(replies)
        self._ledger.note_replies(server_round + self._offset, ordered)
        sound = [reply for reply in ordered if reply.has_error() or self._is_sound(reply)]
        arrays, metrics = super().aggregate_train(server_round + self._offset, sound)  # type: ignore[misc]
        if arrays is not None:
            arrays = ArrayRecord(
                {name: Array(_as_dtype(array.numpy(), self._sent[name][1])) for name, array in arrays.items()}
            )
        return arrays, metrics

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Aggregate the metrics in the order of the partitions."""
        return super().aggregate_evaluate(server_round + self._offset, self._ordered(replies))  # type: ignore[misc]

    def _note(self, current: int, messages: Iterable[Message]) -> list[Message]:
        partitions = self._selection.partitions
        ordered = sorted(messages, key=lambda message: partitions[message.metadata.dst_node_id])
        self._ledger.record(current, ordered, partitions)
        return ordered

    def _ordered(self, replies: Iterable[Message]) -> list[Message]:
        partitions = self._selection.partitions
        return sorted(replies, key=lambda reply: partitions.get(reply.metadata.src_node_id, -1))

    def _is_sound(self, reply: Message) -> bool:
        partition = self._selection.partitions.get(reply.metadata.src_node_id, -1)
        origin = f"the update of client {partition}"
        weights = from_record(reply.content[ARRAYS]) if ARRAYS in reply.content else {}
        shapes = {name: array.shape for name, array in weights.items()}
        if shapes != {name: shape for name, (shape, _) in self._sent.items()}:
            log.warning("%s was refused: its arrays do not have the names and shapes of the global model", origin)
            return False
        try:
            check_finite(weights, origin)
        except IntegrityError as error:
            log.warning("%s; it was refused", error)
            return False
        return True


def _as_dtype(array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    return np.asarray(np.rint(array) if np.issubdtype(dtype, np.integer) else array, dtype)
