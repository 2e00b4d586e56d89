"""Grids between a strategy and Flower's: each passes on what it does not change."""

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import Error, Message
from flwr.serverapp import Grid
from google.protobuf.message import DecodeError

from fedinverse.flower_compat import ErrorCode, NodeInfo
from fedinverse.words import plain

_PAUSE = 3.0  # seconds between two looks for replies, as Flower's own grid over the network has it
# What Flower raises on a reply that is not what it says; a SuperLink that is away is another kind of error.
_UNDECODABLE = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(MemoryError, RecursionError, TypeError, ValueError, DecodeError),
)


class PassingGrid(Grid):
    """Passes everything on to another grid."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def get_node_ids(self) -> Any:
        """Pass on."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Any:
        """Pass on."""
        return self._grid.get_nodes()

    def set_run(self, run: Any) -> None:
        """Pass on."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """Pass on."""
        return self._grid.run

    def create_message(self, *args: Any, **kwargs: Any) -> Any:
        """Pass on."""
        return self._grid.create_message(*args, **kwargs)

    def push_messages(self, messages: Any) -> Any:
        """Pass on."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Any) -> Any:
        """Pass on."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
        """Pass on."""
        return self._grid.send_and_receive(messages, timeout=timeout)


class ChosenNodes(PassingGrid):
    """A grid that shows a strategy only the chosen nodes, so that whatever it samples, it samples them."""

    def __init__(self, grid: Grid, nodes: list[int]) -> None:
        super().__init__(grid)
        self._nodes = nodes

    def get_node_ids(self) -> list[int]:
        """Return the chosen nodes."""
        return list(self._nodes)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return the chosen nodes' information."""
        chosen = set(self._nodes)
        return [node for node in self._grid.get_nodes() if node.node_id in chosen]


class AnsweredGrid(PassingGrid):
    """A grid that returns one reply per message, in the order of the messages, each from the node that was asked.

    Flower leaves out who is late, and a SuperLink answers in its own name for a node that is away: neither says who it
    was. Here an error reply stands for either. It also fetches replies one by one, because Flower decodes all that have
    arrived at once: one that cannot be decoded would take the others, and the run, with it.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self._read: Callable[[Message], None] = lambda _: None

    def as_they_arrive(self, read: Callable[[Message], None]) -> None:
        """Hand every reply to ``read`` while the others are waited for; what ``read`` raises ends the round."""
        self._read = read
        if hasattr(self._grid, "arrived"):
            self._grid.arrived = read

    def when_idle(self, begin: Callable[[], None]) -> bool:
        """Have ``begin`` called in every round once a core of this machine has no client to train, or a little later.

        Returns:
            Whether it is: not every grid knows.
        """
        if not hasattr(self._grid, "idle"):
            return False
        self._grid.idle = begin
        return True

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:
        """Return a reply to every message: the node's own, or an error in its place."""
        asked = list(messages)
        simulated = hasattr(self._grid, "answer")  # it hands over objects of this process; nothing is decoded
        received = self._grid.send_and_receive(asked, timeout=timeout) if simulated else self._fetch(asked, timeout)
        replies = {reply.metadata.reply_to_message_id: reply for reply in received}
        within = "" if timeout is None else f" within {timeout:g} s"
        silent = Error(ErrorCode.REPLY_MESSAGE_UNAVAILABLE, f"no reply{within}")
        return [_of_its_node(message, replies.get(message.metadata.message_id), silent) for message in asked]

    def _fetch(self, asked: list[Message], timeout: float | None) -> list[Message]:
        """Send through Flower's grid and pull every reply by itself, until all are there or the time is over."""
        self._grid.push_messages(asked)
        pause = getattr(self._grid, "pull_interval", _PAUSE)
        waiting = {message.metadata.message_id: message for message in asked}
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while True:
            for number, message in list(waiting.items()):
                arrived = self._pull(message)
                for reply in arrived:
                    self._read(reply)
                replies += arrived
                if arrived:
                    del waiting[number]
            left = deadline - time.monotonic()
            if not waiting or left <= 0:
                return replies
            time.sleep(min(pause, left))

    def _pull(self, message: Message) -> list[Message]:
        try:
            return list(self._grid.pull_messages([message.metadata.message_id]))
        except _UNDECODABLE as error:
            reason = f"its reply cannot be decoded ({plain(f'{type(error).__name__}: {error}')})"
            return [Message(Error(ErrorCode.UNKNOWN, reason), reply_to=message)]


def _of_its_node(message: Message, reply: Message | None, silent: Error) -> Message:
    if reply is None:
        return Message(silent, reply_to=message)
    if reply.has_error():
        return Message(Error(reply.error.code, plain(reply.error.reason)), reply_to=message)
    if reply.metadata.src_node_id != message.metadata.dst_node_id:
        return Message(Error(ErrorCode.UNKNOWN, "another node answered in its place"), reply_to=message)
    return reply
