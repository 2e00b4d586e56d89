"""Grids between a strategy and Flower's: each passes on what it does not change."""

from collections.abc import Iterable
from typing import Any

from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid


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
