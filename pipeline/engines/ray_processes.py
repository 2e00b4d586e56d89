"""Which of Ray's own processes a simulation needs: those that store objects and place actors, and no watchers.

``ray.init`` has no switch for its autoscaler, its log monitor and its dashboard server, which it starts even for
``include_dashboard=False``. Each is a Python process that costs half a second to start, as much to stop, and takes time
from the clients. A version of Ray that starts them otherwise starts them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from ray._private.node import Node

_WATCHERS = ("start_monitor", "start_log_monitor", "start_api_server")


@contextmanager
def no_watchers() -> Iterator[None]:
    """Have ``ray.init`` start none of them in this block."""
    starts = {name: getattr(Node, name) for name in _WATCHERS if hasattr(Node, name)}
    for name in starts:
        setattr(Node, name, _nothing)
    try:
        yield
    finally:
        for name, start in starts.items():
            setattr(Node, name, start)


def _nothing(*_: object, **__: object) -> None:
    """Start nothing."""
