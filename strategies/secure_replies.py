"""Replies to the four stages of SecAgg+, checked before Flower's workflow reads them.

One that does not fit becomes an error reply of its node, which the protocol leaves out as it does a client that fell
silent. What no check can see is a lie inside a masked vector or a share: the server must not see single updates, and
whoever takes part can spoil a sum. A sum that cannot be unmasked leaves the model as it was.
"""

import logging
from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedinverse.arrays import decode_bytes
from fedinverse.errors import RefusedReplyError
from fedinverse.flower_compat import ErrorCode
from fedinverse.messages import CLIENT, METRICS, Weights
from fedinverse.words import plain

log = logging.getLogger("fedinverse.server")
_KEY, _SHARE, _CIPHERTEXT = 1000, 4000, 20_000  # bytes: several times what the protocol needs
_COUNT = np.dtype(np.int64)


def maskable(before: Weights) -> list[str]:
    """Return the names of the arrays that go into the masked sum, in their order: all but integers."""
    return [name for name, array in before.items() if not np.issubdtype(array.dtype, np.integer)]


class SecureReplies:
    """Checks the replies of one round's stages: ``nodes`` take part, ``before`` is the model they were sent."""

    def __init__(self, nodes: list[int], before: Weights) -> None:
        self._nodes, self._before = frozenset(nodes), before
        self._keys: set[bytes] = set()

    def stage(self, number: int, replies: list[Message]) -> list[Message]:
        """Return the replies to stage ``number`` (0 to 3), with an error in place of each that does not fit."""
        read = (self._public_keys, self._shares, self._masked, self._unmasking)[number]
        return [reply if reply.has_error() else self._checked(reply, read) for reply in replies]

    def _checked(self, reply: Message, read: Callable[[RecordDict], RecordDict]) -> Message:
        try:
            return Message(read(reply.content), metadata=reply.metadata)
        except RefusedReplyError as error:
            reason = str(error)
        except Exception as error:  # whatever else is wrong with it
            reason = f"it cannot be read ({plain(f'{type(error).__name__}: {error}')})"
        log.warning("secure aggregation: the reply of node %d was refused: %s", reply.metadata.src_node_id, reason)
        return Message(Error(ErrorCode.UNKNOWN, f"refused: {reason}"), metadata=reply.metadata)

    def _public_keys(self, content: RecordDict) -> RecordDict:
        from fedinverse.flower_compat import SecAggKey

        keys = [
            _bytes(_protocol(content)[name], name, _KEY) for name in (SecAggKey.PUBLIC_KEY_1, SecAggKey.PUBLIC_KEY_2)
        ]
        for key in keys:
            if not isinstance(serialization.load_pem_public_key(key), ec.EllipticCurvePublicKey):
                raise RefusedReplyError("its public key is of another kind")
            if key in self._keys:  # the others would refuse to go on
                raise RefusedReplyError("its public key is not new")
            self._keys.add(key)
        return _protocol_of({SecAggKey.PUBLIC_KEY_1: keys[0], SecAggKey.PUBLIC_KEY_2: keys[1]})

    def _shares(self, content: RecordDict) -> RecordDict:
        from fedinverse.flower_compat import SecAggKey

        return self._addressed(content, SecAggKey.DESTINATION_LIST, SecAggKey.CIPHERTEXT_LIST, _CIPHERTEXT)

    def _unmasking(self, content: RecordDict) -> RecordDict:
        from fedinverse.flower_compat import SecAggKey

        return self._addressed(content, SecAggKey.NODE_ID_LIST, SecAggKey.SHARE_LIST, _SHARE)

    def _addressed(self, content: RecordDict, nodes_key: str, bytes_key: str, limit: int) -> RecordDict:
        protocol = _protocol(content)
        nodes, parts = protocol[nodes_key], protocol[bytes_key]
        if not isinstance(nodes, list) or not isinstance(parts, list) or len(nodes) != len(parts):
            raise RefusedReplyError(f"'{nodes_key}' and '{bytes_key}' are not lists of one length")
        if len(set(nodes)) != len(nodes) or not self._nodes.issuperset(nodes):
            raise RefusedReplyError(f"'{nodes_key}' names a node twice, or one that takes no part")
        return _protocol_of({nodes_key: nodes, bytes_key: [_bytes(part, bytes_key, limit) for part in parts]})

    def _masked(self, content: RecordDict) -> RecordDict:
        from fedinverse.flower_compat import Code, FitRes, Parameters, SecAggKey, Status, fitres_to_recorddict

        vectors = _protocol(content)[SecAggKey.MASKED_PARAMETERS]
        shapes = [(1,), *(self._before[name].shape for name in maskable(self._before))]  # the first is its weight
        if not isinstance(vectors, list) or len(vectors) != len(shapes):
            raise RefusedReplyError(f"it sends {len(vectors) if isinstance(vectors, list) else 'no'} masked arrays")
        for number, (vector, shape) in enumerate(zip(vectors, shapes, strict=True)):
            if not isinstance(vector, bytes):
                raise RefusedReplyError(f"masked array {number} is no bytes")
            decode_bytes(vector, f"masked array {number}", shape, _COUNT)
        for name, kind in ((METRICS, MetricRecord), (CLIENT, ConfigRecord)):
            if not isinstance(content.get(name), kind):
                raise RefusedReplyError(f"its reply lacks '{name}'")
        # Flower's older records, of which the workflow reads that they are there.
        legacy = fitres_to_recorddict(FitRes(Status(Code.OK, ""), Parameters([], ""), 1, {}), keep_input=True)
        beside = {METRICS: content[METRICS], CLIENT: content[CLIENT]}  # read when the average has taken its place
        return RecordDict({**_protocol_of({SecAggKey.MASKED_PARAMETERS: vectors}), **legacy, **beside})


def _protocol(content: RecordDict) -> ConfigRecord:
    from fedinverse.flower_compat import RECORD_KEY_CONFIGS

    record = content.get(RECORD_KEY_CONFIGS)
    if not isinstance(record, ConfigRecord):
        raise RefusedReplyError("its reply lacks the protocol's record")
    return record


def _protocol_of(values: dict[str, object]) -> RecordDict:
    from fedinverse.flower_compat import RECORD_KEY_CONFIGS

    return RecordDict({RECORD_KEY_CONFIGS: ConfigRecord(values)})


def _bytes(value: object, what: str, limit: int) -> bytes:
    if not isinstance(value, bytes) or not 0 < len(value) <= limit:
        raise RefusedReplyError(f"'{what}' is not 1 to {limit} bytes")
    return value
