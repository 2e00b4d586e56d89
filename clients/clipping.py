"""The client's side of central differential privacy: Flower's own clipping mods, on the weights alone."""

from functools import lru_cache
from typing import Any, cast

from flwr.app import ArrayRecord, Context, Message, RecordDict

from fedinverse.messages import ARRAYS, CLIPPING, CONFIG
from fedinverse.models import build


def clipping(message: Message, context: Context, call_next: Any) -> Message:
    """Flower mod: clip the update if the server asks for it. BatchNorm buffers go past unclipped.

    Flower's mods take the norm over every array; a buffer's step counter would be nearly all of it.
    """
    if CONFIG not in message.content or CLIPPING not in message.content[CONFIG]:
        return cast(Message, call_next(message, context))
    from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod

    config = message.content[CONFIG]
    buffers = _buffers(config["model"], config["width"])
    past: dict[str, Any] = {}

    def whole(_: Message, node_context: Context) -> Message:
        reply = cast(Message, call_next(message, node_context))
        if not reply.has_error():
            arrays = reply.content[ARRAYS]
            past.update({name: array for name, array in arrays.items() if name in buffers})
            reply.content[ARRAYS] = _without(arrays, buffers)
        return reply

    light = RecordDict({**message.content, ARRAYS: _without(message.content[ARRAYS], buffers)})
    mod = adaptiveclipping_mod if config[CLIPPING] == "adaptive" else fixedclipping_mod
    reply = mod(Message(light, metadata=message.metadata), context, whole)
    if not reply.has_error():
        clipped = reply.content[ARRAYS]
        order = message.content[ARRAYS]
        reply.content[ARRAYS] = ArrayRecord({name: (past if name in past else clipped)[name] for name in order})
    return reply


@lru_cache(maxsize=2)
def _buffers(model: str, width: float) -> frozenset[str]:
    return frozenset(name for name, _ in build(model, 2, width, seed=0).named_buffers())


def _without(arrays: ArrayRecord, names: frozenset[str]) -> ArrayRecord:
    return ArrayRecord({name: array for name, array in arrays.items() if name not in names})
