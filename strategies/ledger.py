"""The broadcast ledger: round, message type, receiver and SHA-256 of everything the server sends.

It is the ground truth a capture is held against: a captured file whose hash is not in the ledger is not what the
server sent. Append-only; a round repeated after a kill is noted again, because it was sent again.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Message

from fedinverse.flower import ARRAYS, CLIENT, METRICS, from_record
from fedinverse.storage import append_jsonl, weights_sha256


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
                {
                    "round": server_round,
                    "message-type": message.metadata.message_type,
                    "partition": partitions[node],
                    "node": str(node),  # as text: it exceeds what JSON numbers hold exactly
                    "sha256": hashes[id(record)],
                }
            )
        append_jsonl(self.path, *lines)

    def note_replies(self, server_round: int, replies: Iterable[Message]) -> None:
        """Note in ``clients.jsonl`` what each client said of its training: examples, loss, defence, epsilon."""
        lines = [
            {"round": server_round, **dict(reply.content[CLIENT]), **dict(reply.content[METRICS])}
            for reply in replies
            if not reply.has_error() and {CLIENT, METRICS} <= reply.content.keys()
        ]
        finite = [{key: _finite(value) for key, value in line.items()} for line in lines]
        append_jsonl(self.path.with_name("clients.jsonl"), *finite)


def _finite(value: Any) -> Any:
    """Return ``value``, or its name as text where JSON has no number for it (the epsilon of no noise)."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
