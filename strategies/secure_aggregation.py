"""Secure aggregation: Flower's SecAgg+ (Bell et al., CCS 2020) under any strategy that averages.

Flower ships the protocol for its older interface only. ``SecureGrid`` stands between the strategy and the real grid and
runs the four stages of Flower's ``SecAggPlusWorkflow`` for every round of train messages: keys, shares, masked
updates, unmasking. The strategy is then handed one reply per client that took part, each with the average in place of
the client's own update, as Flower's workflow does. The server sees no single update; every client, the malicious one
too, is still sent every global model.

Updates are clipped to ``clipping_range`` and rounded to ``quantization_range`` steps; a client refuses to send what
would be clipped. Integer buffers (BatchNorm's step counter) are not part of the sum and stay as they were sent.
"""

import logging
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from pydantic import Field, model_validator

from fedinverse.arrays import from_record
from fedinverse.config import Section
from fedinverse.messages import ARRAYS, CLIENT, CONFIG, METRICS, SECURE, Weights
from fedinverse.words import plain
from strategies.grids import PassingGrid
from strategies.secure_replies import SecureReplies, maskable

log = logging.getLogger("fedinverse.server")
MIN_SUM = 3  # clients in a sum, at least
_FAILED = 1  # error code of a reply that this grid makes up; Flower's own codes say where an app failed


class SecureAggregation(Section):
    """Flower's settings of SecAgg+, under Flower's names and with its defaults unless said otherwise."""

    enabled: bool = Field(False, description="mask the updates; the server sees their average only")
    num_shares: float = Field(1.0, gt=0, le=1, description="share of a round's clients that hold a share of a key")
    reconstruction_threshold: float = Field(
        0.5, gt=0, le=1, description="share of those needed to unmask, at least three; the rest may drop out"
    )
    max_weight: float = Field(
        0.0, ge=0, description="most images a client may have; 0: the largest shard, by the split manifest"
    )
    clipping_range: float = Field(8.0, gt=0, description="largest magnitude of a weight; a client refuses to exceed it")
    quantization_range: int = Field(2**22, ge=2**8, description="number of steps a weight is rounded to")
    modulus_range: int = Field(2**32, description="masks are drawn below it; a power of two")

    @model_validator(mode="after")
    def _fits(self) -> "SecureAggregation":
        if self.modulus_range.bit_count() != 1 or not self.quantization_range < self.modulus_range <= 2**32:
            raise ValueError(
                f"modulus_range is {self.modulus_range}; make it a power of two above quantization_range, at most 2^32"
            )
        return self


class SecureGrid(PassingGrid):
    """Runs SecAgg+ for train messages and passes everything else on."""

    def __init__(self, grid: Grid, settings: SecureAggregation, *, weighted: bool, largest: int) -> None:
        """Wrap ``grid``; ``largest`` is the number of images of the largest client."""
        super().__init__(grid)
        self._settings, self._weighted = settings, weighted
        self._max_weight = (settings.max_weight or float(largest)) if weighted else 1.0

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
        """Return the replies; to train messages, one per client in the sum, each holding the average."""
        batch = list(messages)
        if not batch or batch[0].metadata.message_type != MessageType.TRAIN:
            return self._grid.send_and_receive(batch, timeout=timeout)
        return self._aggregate(batch, timeout)

    def _aggregate(self, batch: list[Message], timeout: float | None) -> list[Message]:
        from fedinverse.flower_compat import WorkflowState

        sent = {message.metadata.dst_node_id: message for message in batch}
        before = from_record(batch[0].content[ARRAYS])
        grid, legacy, state = _Recorder(self._grid, list(sent), before), _LegacyRound(batch), WorkflowState()
        workflow = self._workflow(len(batch), timeout)
        try:
            whole = workflow.setup_stage(grid, legacy, state)
            state.nid_to_fitins = {node: self._with_terms(message) for node, message in sent.items()}
            whole = whole and workflow.share_keys_stage(grid, legacy, state)
            _forget_who_gave_no_shares(state)
            for stage in (workflow.collect_masked_vectors_stage, workflow.unmask_stage):
                whole = whole and stage(grid, legacy, state)
        except Exception as error:  # a share that was a lie: the sum cannot be unmasked, and nobody can say by whom
            log.warning("secure aggregation: the sum could not be unmasked (%s)", plain(error))
            whole = False
        if not whole:
            log.warning("secure aggregation: too few clients answered to unmask their sum; the round changes nothing")
            return [
                Message(grid.errors.get(node, Error(_FAILED, "its masked update could not be used")), reply_to=message)
                for node, message in sent.items()
            ]
        average = _packed(legacy.average, sent[batch[0].metadata.dst_node_id].content[ARRAYS])
        masked = {reply.metadata.src_node_id: reply for reply in grid.stages[2] if not reply.has_error()}
        answers = [_answer(sent[node], masked[node], average) for node in masked]
        return answers + [Message(error, reply_to=sent[node]) for node, error in grid.errors.items()]

    def _workflow(self, clients: int, timeout: float | None) -> Any:
        from fedinverse.flower_compat import SecAggPlusWorkflow

        s = self._settings
        # Never fewer than three: of a sum of two, each knows the other's update.
        threshold = max(MIN_SUM, round(s.reconstruction_threshold * min(clients, _shares(s.num_shares, clients))))
        return SecAggPlusWorkflow(
            s.num_shares,
            threshold,
            max_weight=self._max_weight,
            clipping_range=s.clipping_range,
            quantization_range=s.quantization_range,
            modulus_range=s.modulus_range,
            timeout=timeout,
        )

    def _with_terms(self, message: Message) -> RecordDict:
        terms = {"weighted": self._weighted, "max-weight": self._max_weight, "range": self._settings.clipping_range}
        return RecordDict({**message.content, SECURE: ConfigRecord(dict(terms))})


def _shares(share: float, clients: int) -> int:
    """Return how many hold a share of a key, as Flower's workflow rounds it."""
    shares = round(share * clients)
    shares += shares < clients and shares % 2 == 0
    return shares if shares > 2 else clients


class _Recorder(PassingGrid):
    """Reads the replies of every stage before the protocol does, and keeps the first error of every node."""

    def __init__(self, grid: Grid, nodes: list[int], before: Weights) -> None:
        super().__init__(grid)
        self._read = SecureReplies(nodes, before)
        self.stages: list[list[Message]] = []
        self.errors: dict[int, Error] = {}

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:
        """Send, receive, check, remember."""
        asked = list(messages)
        received = list(self._grid.send_and_receive(asked, timeout=timeout))
        replies = self._read.stage(len(self.stages), received)
        self.stages.append(replies)
        for reply in replies:
            if reply.has_error() and len(self.stages) <= 3:  # who fails to unmask is in the sum all the same
                self.errors.setdefault(reply.metadata.src_node_id, reply.error)
        return replies


class _LegacyRound:
    """What Flower's workflow asks of its older server: who trains in this round, and where the average goes."""

    def __init__(self, batch: list[Message]) -> None:
        from fedinverse.flower_compat import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, WorkflowKey

        self._nodes = [message.metadata.dst_node_id for message in batch]
        current = int(batch[0].content[CONFIG]["server-round"])
        self.state = RecordDict(
            {MAIN_CONFIGS_RECORD: ConfigRecord({WorkflowKey.CURRENT_ROUND: current}), MAIN_PARAMS_RECORD: ArrayRecord()}
        )
        self.average: list[np.ndarray[Any, Any]] = []
        self.strategy = self.client_manager = self

    def configure_fit(self, *_: Any) -> list[tuple[Any, Any]]:
        """Return the nodes of the round; what they are sent is put in afterwards."""
        from fedinverse.flower_compat import FitIns, Parameters

        return [(SimpleNamespace(node_id=node), FitIns(Parameters([], ""), {})) for node in self._nodes]

    def num_available(self) -> int:
        """Return how many take part."""
        return len(self._nodes)

    def aggregate_fit(self, _: int, results: list[tuple[Any, Any]], __: Any) -> tuple[None, dict[str, Any]]:
        """Keep the average, which every result carries."""
        from fedinverse.flower_compat import parameters_to_ndarrays

        self.average = parameters_to_ndarrays(results[0][1].parameters)
        return None, {}


def _forget_who_gave_no_shares(state: Any) -> None:
    """Take who dropped out before the masks off the round: Flower (1.39) would have the others unmask its key too.

    Nobody masked with it, and the others hold no share of its key: all of them would fail.
    """
    state.sampled_node_ids = set(state.active_node_ids)
    state.nid_to_neighbours = {node: near & state.active_node_ids for node, near in state.nid_to_neighbours.items()}


def _packed(average: list[np.ndarray[Any, Any]], sent: ArrayRecord) -> ArrayRecord:
    before = from_record(sent)
    after = dict(zip(maskable(before), average, strict=True))
    return ArrayRecord({name: Array(np.asarray(after.get(name, old), old.dtype)) for name, old in before.items()})


def _answer(asked: Message, masked: Message, average: ArrayRecord) -> Message:
    kept: Iterable[str] = (METRICS, CLIENT)
    content = RecordDict({name: masked.content[name] for name in kept})
    content[ARRAYS] = ArrayRecord(dict(average.items()))  # its own: strategies take records apart
    return Message(content, reply_to=asked)
