"""The client's side of secure aggregation: Flower's own mod for SecAgg+, between its older interface and this app."""

from typing import Any, cast

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict

from clients.node import node_of
from fedinverse.arrays import from_record
from fedinverse.errors import ConfigError, FedInverseError
from fedinverse.messages import ARRAYS, CONFIG, METRICS, ROUND, SECURE
from fedinverse.seeds import derive


def secure_aggregation(message: Message, context: Context, call_next: Any) -> Message:
    """Flower mod: answer the stages of SecAgg+; the app inside sees an ordinary train message.

    Flower rounds at random with numpy's global state; it is seeded here by run, round and client, and given back.

    Raises:
        ConfigError: a weight exceeds what the configured range can carry; it would be clipped without a word.
        FedInverseError: the app inside answered with an error.
    """
    from fedinverse.flower_compat import RECORD_KEY_CONFIGS

    if RECORD_KEY_CONFIGS not in message.content:
        return cast(Message, call_next(message, context))
    from fedinverse.flower_compat import secaggplus_mod

    def honest(inner: Message, node_context: Context) -> Message:
        content = {key: value for key, value in inner.content.items() if key not in (RECORD_KEY_CONFIGS, SECURE)}
        reply = cast(Message, call_next(Message(RecordDict(content), metadata=inner.metadata), node_context))
        if reply.has_error():
            raise FedInverseError(reply.error.reason)
        seed = derive(node_of(node_context).seed, "secure aggregation", int(inner.content[CONFIG][ROUND]))
        np.random.seed(seed % 2**32)
        return _as_fit_result(reply, list(inner.content[ARRAYS]), inner.content[SECURE])

    # Flower's mod takes keys out of the record it is handed, which other clients of this process may share.
    copied = {key: ConfigRecord(dict(v)) if isinstance(v, ConfigRecord) else v for key, v in message.content.items()}
    before = np.random.get_state()
    try:
        return secaggplus_mod(Message(RecordDict(copied), metadata=message.metadata), context, honest)
    finally:
        np.random.set_state(before)


def _as_fit_result(reply: Message, order: list[str], terms: ConfigRecord) -> Message:
    """Return ``reply`` as Flower's older interface has it, arrays in ``order``, with what goes beside them."""
    from fedinverse.flower_compat import Code, FitRes, Status, fitres_to_recorddict, ndarrays_to_parameters

    weights = from_record(reply.content[ARRAYS])
    arrays = [weights[name] for name in order if not np.issubdtype(weights[name].dtype, np.integer)]
    examples = int(reply.content[METRICS]["num-examples"]) if terms["weighted"] else 1
    share = examples / float(terms["max-weight"])
    if share > 1:
        raise ConfigError(
            f"{examples} images are more than federation.secure_aggregation.max_weight, {terms['max-weight']:g}; "
            "raise it"
        )
    largest = share * max(float(np.abs(array).max(initial=0)) for array in arrays)
    if largest > terms["range"]:
        raise ConfigError(
            f"a weight of {largest:.3g} exceeds federation.secure_aggregation.clipping_range, {terms['range']:g}; "
            "raise it"
        )
    result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters(arrays), examples, {})
    beside = {key: value for key, value in reply.content.items() if key != ARRAYS}
    return Message(RecordDict({**beside, **fitres_to_recorddict(result, keep_input=True)}), metadata=reply.metadata)
