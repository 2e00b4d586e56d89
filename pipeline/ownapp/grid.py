"""Between their server and Flower's grid: the ledger, every model that is sent, and a node that is not shown."""

import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.serverapp import Grid

from attacker.spool import Spool
from fedinverse.arrays import to_record
from fedinverse.flower_compat import ErrorCode
from fedinverse.received import arrays_in, is_training, model_round, names_round_zero, trained, weights_in
from fedinverse.records import LedgerLine, ModelFile, append_lines, write_record
from fedinverse.storage import save_weights, weights_sha256
from pipeline.engines.simulated import NodesGrid, error_reply, explain
from pipeline.ownapp.client import ANSWER, PARTITION, WHO
from pipeline.ownapp.plan import FAILED, Failed, Plan
from strategies.grids import PassingGrid

STALLED = 3  # exit code of a federation whose strategy waits for nodes that are not there
REFUSED = 4  # of one whose messages cannot be told apart
_POLLS = 5  # a strategy asks for the nodes once a second or more rarely


@dataclass(frozen=True)
class Training:
    """What a client was asked to train: records in copies, for some apps change what they are given.

    Attributes:
        content: all records; of the arrays only the first round's are kept.
        name: of the array record with the weights.
        kind, group: of the message.
    """

    content: RecordDict
    name: str
    kind: str
    group: str

    @staticmethod
    def of(message: Message, record: str, *, first: bool) -> "Training":
        """Copy what ``message`` asks."""
        content = copied(message.content)
        weights = arrays_in(content, record)
        name = next(key for key, value in content.items() if value is weights)
        if not first:
            content[name] = ArrayRecord()
        return Training(content, name, message.metadata.message_type, message.metadata.group_id)


def copied(content: RecordDict) -> RecordDict:
    """Return ``content`` with records of its own that hold the same values."""
    return RecordDict({name: type(record)(dict(record)) for name, record in content.items()})


class Broadcasts:
    """Writes down what is sent: ``ledger.jsonl``, and every round's model once."""

    def __init__(self, plan: Plan, partitions: dict[int, int]) -> None:
        self._plan, self._partitions = plan, partitions
        self._directory = Path(plan.directory)
        self._seen: list[str] = []
        self._first = 1  # what the app calls its first round
        self._lock = threading.Lock()  # Flower's older server sends from several threads
        self.trainings: dict[int, Training] = {}
        """By round, what was asked of a client that trained."""
        self.passed_over: set[str] = set()
        """Array records of messages that have none of the name in ``record``."""

    def note(self, messages: Iterable[Message]) -> None:
        """Write down ``messages``."""
        with self._lock:
            hashed: dict[int, str] = {}
            lines = []
            for message in messages:
                if not self._plan.record:
                    self._refuse_twins(message.content)
                record = arrays_in(message.content, self._plan.record)
                if record is None:
                    if len(message.content.array_records):
                        self.passed_over.update(message.content.array_records)
                    continue
                if names_round_zero(message):
                    self._first = 0
                    Spool.read(Path(self._plan.capture)).count_from_zero()  # the attacker may not be sent this round's
                if id(record) not in hashed:  # a broadcast may share one record
                    hashed[id(record)] = self._keep(message, record)
                lines.append(self._line(message, hashed[id(record)]))
            if lines:
                append_lines(self._directory / "ledger.jsonl", lines)

    def _refuse_twins(self, content: RecordDict) -> None:
        """End the federation if two array records of a message could be the model: they have the same shapes."""
        records = content.array_records
        shapes = {name: [array.shape for array in record.values()] for name, record in records.items() if len(record)}
        largest = shapes.get(next((name for name, value in records.items() if value is arrays_in(content)), ""))
        twins = [name for name, each in shapes.items() if each == largest]
        if len(twins) > 1:
            write_record(Path(self._plan.directory) / FAILED, Failed("record", ", ".join(sorted(twins))))
            os._exit(REFUSED)  # as for a strategy that waits: their server may catch whatever is raised here

    def _keep(self, message: Message, record: ArrayRecord) -> str:
        weights = weights_in(record, self._plan.names)
        sha = weights_sha256(weights)
        number = model_round(message, self._seen, sha, self._first)
        if sha not in self._seen:
            self._seen.append(sha)
        path = self._directory / "checkpoints" / f"round-{number:04d}.safetensors"
        if not path.exists():
            save_weights(path, weights, ModelFile.metadata(number, self._plan.about))
        return sha

    def _line(self, message: Message, sha: str) -> LedgerLine:
        kind, node = message.metadata.message_type, message.metadata.dst_node_id
        number = model_round(message, self._seen, sha, self._first)
        if is_training(kind) and number + 1 not in self.trainings:
            self.trainings[number + 1] = Training.of(message, self._plan.record, first=not self.trainings)
        return LedgerLine(number + is_training(kind), kind, str(node), sha, self._partitions[node])


class WatchedGrid(PassingGrid):
    """Passes everything on, writes down what is sent, and does not show the ``hidden`` nodes."""

    def __init__(self, grid: Grid, broadcasts: Broadcasts, hidden: set[int], plan: Plan) -> None:
        super().__init__(grid)
        self._broadcasts, self._hidden, self._plan = broadcasts, hidden, plan
        self._polls, self._started, self._sent = 0, time.monotonic(), False
        self.answered: set[int] = set()
        """Nodes that answered at least once."""
        self.failures: dict[int, str] = {}
        """By node, the first error it answered with."""

    def get_node_ids(self) -> list[int]:
        """Return the nodes that are shown; a strategy that only ever asks for them is stopped."""
        nodes = [node for node in self._grid.get_node_ids() if node not in self._hidden]
        self._polls += 1
        waited = time.monotonic() - self._started
        if not self._sent and self._polls > _POLLS and waited > self._plan.patience:
            stalled = Failed("stalled", nodes=len(nodes), seconds=waited)
            write_record(Path(self._plan.directory) / FAILED, stalled)
            os._exit(STALLED)  # the waiting thread is theirs and may be any; the parent says why
        return nodes

    def get_nodes(self) -> Any:
        """Return the information of the nodes that are shown."""
        return [node for node in self._grid.get_nodes() if node.node_id not in self._hidden]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Any:
        """Write down and pass on."""
        return self._heard(self._grid.send_and_receive(self._noted(messages), timeout=timeout))

    def push_messages(self, messages: Iterable[Message]) -> Any:
        """Write down and pass on."""
        return self._grid.push_messages(self._noted(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Pass on, and note who answered."""
        return self._heard(self._grid.pull_messages(message_ids))

    def _heard(self, replies: Iterable[Message]) -> list[Message]:
        given = list(replies)
        for reply in given:
            node = reply.metadata.src_node_id
            if reply.has_error():
                self.failures.setdefault(node, str(reply.error.reason))
            else:
                self.answered.add(node)
        return given

    def _noted(self, messages: Iterable[Message]) -> list[Message]:
        self._sent = True
        given = list(messages)
        self._broadcasts.note(given)
        return given


class OneProcessGrid(NodesGrid):
    """Nodes whose client answers in this process, one message at a time."""

    def __init__(self, plan: Plan, client: Callable[[Message, Context], Message]) -> None:
        super().__init__(
            [{"partition-id": number, "num-partitions": plan.clients} for number in range(plan.clients)],
            plan.run_config,
        )
        self._client, self._turn = client, threading.Lock()

    def answer(self, messages: list[Message], timeout: float | None) -> list[Message]:
        """Answer in order."""
        del timeout
        with self._turn:
            return [self._answer(message) for message in messages]

    def _answer(self, message: Message) -> Message:
        # Flower's older layer takes arrays out of the record it was given: every node gets a record of its own.
        message.content = copied(message.content)
        try:
            return self._client(message, self.contexts[message.metadata.dst_node_id])
        except Exception as error:
            return error_reply(message, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, explain(error))


def partitions_of(grid: Grid, clients: int, timeout: float = 300.0) -> tuple[dict[int, int], list[str]]:
    """Ask all nodes which partition they are; return node id -> partition id of those that said it, and all errors.

    Raises:
        TimeoutError: fewer than ``clients`` nodes came up in time.
    """
    deadline = time.monotonic() + timeout
    while len(nodes := list(grid.get_node_ids())) < clients:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(nodes)} of {clients} simulated nodes came up within {timeout:g} s")
        time.sleep(0.1)
    replies = list(grid.send_and_receive([Message(RecordDict(), node, WHO) for node in nodes], timeout=timeout))
    known = {
        reply.metadata.src_node_id: int(reply.content[ANSWER][PARTITION]) for reply in replies if not reply.has_error()
    }
    return known, sorted({str(reply.error.reason) for reply in replies if reply.has_error()})


def train_alone(grid: Grid, node: int, broadcasts: Broadcasts, plan: Plan) -> str | None:
    """Let ``node`` alone do every round's training, from the first model on, with their ClientApp; keep the result.

    Returns:
        None, or why there is no such model.
    """
    arrays: ArrayRecord | None = None
    for number, asked in sorted(broadcasts.trainings.items()):
        content = copied(asked.content)
        if arrays is not None:
            content[asked.name] = arrays
        sent = content.array_records[asked.name]
        replies = list(grid.send_and_receive([Message(content, node, asked.kind, group_id=asked.group)]))
        if not replies or replies[0].has_error():
            reason = replies[0].error.reason if replies else "it did not answer"
            return f"client {plan.attacker} failed in round {number} when it trained alone: {reason}"
        answer = arrays_in(replies[0].content)
        if answer is None or len(answer) != len(sent):
            return f"client {plan.attacker} answered round {number} with other arrays than it was sent"
        arrays = to_record(trained(weights_in(sent), weights_in(answer)))
    if arrays is None:
        return "the server never asked anybody to train"
    weights = weights_in(arrays, plan.names)
    save_weights(Path(plan.own_shard), weights, ModelFile.metadata(len(broadcasts.trainings), plan.about))
    return None
