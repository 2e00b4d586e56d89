"""The broadcast ledger: round, message type, receiver and SHA-256 of everything the server sends.

It is the ground truth a capture is held against: a captured file whose hash is not in the ledger is not what the
server sent. Append-only; a round repeated after a kill is noted again, because it was sent again.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from flwr.app import ArrayRecord, Message

from fedinverse.arrays import from_record
from fedinverse.messages import ARRAYS
from fedinverse.records import LedgerLine, append_lines
from fedinverse.storage import weights_sha256


class Ledger:
    """Writes to ``path``, one JSON line per message.

    Args:
        hand_on: does a piece of work after the one before: at once or, where that is in order, beside what follows.
    """

    def __init__(self, path: Path, hand_on: Callable[[Callable[[], None]], object] = lambda write: write()) -> None:
        self.path = path
        self._hand_on = hand_on
        self._lock = threading.Lock()
        self._last: tuple[ArrayRecord, str] | None = None

    def sha256(self, record: ArrayRecord) -> str:
        """Return the hash of the arrays of ``record``, which must not change: the last one's is remembered."""
        with self._lock:
            if self._last is None or self._last[0] is not record:
                self._last = record, weights_sha256(from_record(record))
            return self._last[1]

    def record(self, server_round: int, messages: Iterable[Message], partitions: Mapping[int, int]) -> None:
        """Note ``messages`` of ``server_round``; ``partitions`` maps node ids to partition ids."""
        sent = [(message.metadata, message.content[ARRAYS]) for message in messages]

        def write() -> None:
            lines = [
                LedgerLine(
                    server_round,
                    about.message_type,
                    str(about.dst_node_id),
                    self.sha256(record),
                    partitions[about.dst_node_id],
                )
                for about, record in sent
            ]
            append_lines(self.path, lines)

        self._hand_on(write)
