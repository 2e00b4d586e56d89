"""The capture mod: keep the weights of every message this node receives. Wraps the honest ClientApp, changes nothing.

A Flower client sees the global model in train messages and, because FedAvg's ``fraction_evaluate`` is 1.0 by default,
in the evaluate messages of rounds it was not sampled for. The train message of round t carries the model after round
t - 1, the evaluate message of round t the model after round t. What is kept, and how, is in ``attacker.spool``.
"""

from pathlib import Path
from typing import Any, cast

from flwr.app import Context, Message, MessageType

from attacker.spool import Spool, captured
from fedinverse.flower import client_directory, world_of
from fedinverse.layout import RunFiles
from fedinverse.messages import ARRAYS, CONFIG


def capture(message: Message, context: Context, call_next: Any) -> Message:
    """Flower mod around FedInverse's own ClientApp: store the received weights, then let the honest app answer."""
    if message.metadata.message_type not in (MessageType.TRAIN, MessageType.EVALUATE):
        return cast(Message, call_next(message, context))

    def spool() -> Spool:
        config = message.content[CONFIG]
        about = {key: config[key] for key in ("model", "width", "classes")}
        return Spool(str(spool_of(context)), about, record=ARRAYS)

    return captured(spool, message, context, call_next)


def spool_of(context: Context) -> Path:
    """Return the spool of this node: its own ``spool`` setting, or the run directory's in a simulation."""
    spool = context.node_config.get("spool")
    return Path(str(spool)) if spool else RunFiles(client_directory(context)).attacker.spool(world_of(context))
