"""The broadcast ledger: round, message type, receiver and SHA-256 of everything the server sends.

It is the ground truth a capture is held against: a captured file whose hash is not in the ledger is not what the
server sent. Append-only; a round repeated after a kill is noted again, because it was sent again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Message

from fedinverse.arrays import from_record
from fedinverse.messages import ARRAYS
from fedinverse.records import LedgerLine, append_lines
from fedinverse.storage import weights_sha256


@dataclass(frozen=True)
class Ledger:
    """Writes to ``path``, one JSON line per message."""

    path: Path

    def record(self, server_round: int, messages: Iterable[Message], partitions: Mapping[int, int]) -> None:
        """Note ``messages`` of ``server_round``; ``partitions`` maps node ids to partition ids."""
        hashes: dict[int, str] = {}
        lines = []
        for message in messages:
            record = message.content[ARRAYS]
            if id(record) not in hashes:  # a broadcast shares one record: hash it once
                hashes[id(record)] = weights_sha256(from_record(record))
            node = message.metadata.dst_node_id
            lines.append(
                LedgerLine(server_round, message.metadata.message_type, str(node), hashes[id(record)], partitions[node])
            )
        append_lines(self.path, lines)
