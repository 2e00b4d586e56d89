"""A grid of simulated nodes: node ids, contexts and message ids; how messages are answered is the subclass's."""

import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid

from fedinverse.flower_compat import FlowerRun, TaskIdentity
from fedinverse.layout import World
from fedinverse.run import Run

SERVER_NODE = 0


class NodesGrid(Grid):
    """Nodes 1 to n with the node configs given to them, in that order. Messages are answered by ``answer``.

    Attributes:
        arrived: what a grid whose nodes work beside this process calls with a reply while it waits for the others.
        contexts: of every node.
    """

    arrived: Callable[[Message], None] | None = None

    def __init__(self, node_configs: Sequence[Mapping[str, Any]], run_config: Mapping[str, Any] | None = None) -> None:
        self._run = FlowerRun.create_empty(run_id=1)
        self._ids = itertools.count(1)
        self._pending: dict[str, Message] = {}
        self.contexts = {
            node: Context(
                run_id=1, node_id=node, node_config=dict(config), state=RecordDict(), run_config=dict(run_config or {})
            )
            for node, config in enumerate(node_configs, 1)
        }

    @abstractmethod
    def answer(self, messages: list[Message], timeout: float | None) -> list[Message]:
        """Return the replies that came in time; a client's exception is an error reply."""

    def get_node_ids(self) -> list[int]:
        """Return the ids of all simulated nodes."""
        return list(self.contexts)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Answer ``messages``."""
        numbered = list(messages)
        for message in numbered:
            message.metadata.__dict__["_message_id"] = str(next(self._ids))
        return self.answer(numbered, timeout)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Keep ``messages`` until they are pulled."""
        numbered = list(messages)
        for message in numbered:
            message.metadata.__dict__["_message_id"] = str(next(self._ids))
            self._pending[message.metadata.message_id] = message
        return [message.metadata.message_id for message in numbered]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Answer the kept messages with these ids."""
        return self.answer([self._pending.pop(key) for key in message_ids if key in self._pending], None)

    def set_run(self, run: FlowerRun) -> None:
        """Set Flower's run information."""
        self._run = run

    @property
    def run(self) -> FlowerRun:
        """Flower's run information."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message (Flower's older interface)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)


class SimulatedGrid(NodesGrid):
    """Nodes 1 to n stand for partitions 0 to n - 1 of ``run``, training on ``device``."""

    def __init__(self, run: Run, world: World, device: str = "cpu") -> None:
        clients = run.population.clients
        shared = {"num-partitions": clients, "run-dir": str(run.path.resolve()), "world": world, "device": device}
        super().__init__([{"partition-id": partition, **shared} for partition in range(clients)])


def server_context(**run_config: str) -> Context:
    """Become the server's process and return its context, with this run config."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, SERVER_NODE
    return Context(run_id=1, node_id=SERVER_NODE, node_config={}, state=RecordDict(), run_config={**run_config})


def context_of(run: Run, world: World) -> Context:
    """Become the process of the server of ``run`` in ``world`` and return its context."""
    return server_context(**{"run-dir": str(run.path.resolve()), "world": world})


def error_reply(message: Message, code: int, reason: str) -> Message:
    """Return the reply of a client that failed."""
    return Message(Error(code=code, reason=reason), reply_to=message)


def explain(error: BaseException) -> str:
    """Return a client's exception as one line."""
    return f"{type(error).__name__}: {error}"
