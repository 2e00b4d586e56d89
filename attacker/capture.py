"""The capture mod: keep the weights of every message this node receives. Wraps the honest ClientApp, changes nothing.

A Flower client sees the global model in train messages and, because FedAvg's ``fraction_evaluate`` is 1.0 by default,
in the evaluate messages of rounds it was not sampled for. The train message of round t carries the model after round
t - 1, the evaluate message of round t the model after round t.

The spool: ``round-0007.safetensors`` is the model after round 7, ``receipts.jsonl`` has one line per message; what is
delivered twice (a round repeated after a restart of the server) is noted once. Inverting is another process's work
(``attacker.worker``): files survive a ClientApp that is torn down after every message.
"""

import logging
import time
from pathlib import Path
from typing import Any, cast

from flwr.app import Context, Message, MessageType

from fedinverse.errors import IntegrityError
from fedinverse.flower import client_directory, world_of
from fedinverse.layout import RunFiles, receipts_of, round_file
from fedinverse.messages import ARRAYS, CONFIG, ROUND, plain, read_model
from fedinverse.storage import append_jsonl, read_jsonl, read_metadata, save_weights, weights_sha256

log = logging.getLogger("fedinverse.attacker")
_LARGEST = 16 * 10**9  # bytes of a model that is kept: far beyond what is federated, below what fills a disk at once


def capture(message: Message, context: Context, call_next: Any) -> Message:
    """Flower mod: store the received weights, then let the honest app answer."""
    kind = message.metadata.message_type
    if kind in (MessageType.TRAIN, MessageType.EVALUATE) and ARRAYS in message.content:
        try:
            store(spool_of(context), message, kind)
        except Exception as error:
            # A full disk, a damaged spool or a message of any other shape must not keep the client from answering: it
            # would give itself away.
            log.warning("a %s message could not be captured: %s", kind, plain(f"{type(error).__name__}: {error}"))
    return cast(Message, call_next(message, context))


def spool_of(context: Context) -> Path:
    """Return the spool of this node: its own ``spool`` setting, or the run directory's in a simulation."""
    own = context.node_config.get("spool")
    return Path(str(own)) if own else RunFiles(client_directory(context)).attacker.spool(world_of(context))


def store(spool: Path, message: Message, kind: str) -> None:
    """Write the weights of ``message`` to the spool, unless they lie there, and note the receipt."""
    weights = read_model(message.content[ARRAYS], _LARGEST)
    config = message.content[CONFIG]
    server_round = int(config[ROUND])
    model_round = server_round if kind == MessageType.EVALUATE else server_round - 1
    if model_round < 0:
        raise IntegrityError(f"the message says it is of round {server_round}; rounds count from 1")
    sha = weights_sha256(weights)
    path = spool / round_file(model_round)
    if path.exists() and read_metadata(path).get("sha256") != sha:
        # The server sent other weights for the same round: it was restarted, or sends each node its own.
        path = path.with_stem(f"{path.stem}-{sha[:8]}")
    if not path.exists():
        network = {key: config[key] for key in ("model", "width", "classes")}
        save_weights(path, weights, {"model-round": model_round, **network})
    receipt = {
        "round": server_round,
        "model-round": model_round,
        "message-type": kind,
        "sha256": sha,
        "file": path.name,
        "node": str(message.metadata.dst_node_id),  # as text: it exceeds what JSON numbers hold exactly
    }
    receipts = receipts_of(spool)
    if not any(receipt.items() <= line.items() for line in read_jsonl(receipts)):
        append_jsonl(receipts, receipt | {"time": time.time()})
