"""Which of Ray's own processes a simulation needs, and how its workers start.

``ray.init`` has no switch for its autoscaler, its log monitor and its dashboard server, which it starts even for
``include_dashboard=False``. Each is a Python process that costs half a second to start, as much to stop, and takes time
from the clients. A version of Ray that starts its processes otherwise starts them as it does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray._private.node import Node

_WATCHERS = ("start_monitor", "start_log_monitor", "start_api_server")
_WORKER = Path(__file__).resolve().with_name("ray_worker.py")


@contextmanager
def few_processes() -> Iterator[None]:
    """Have ``ray.init`` start no watchers in this block, and workers of one process (``ray_worker``)."""
    starts = {name: getattr(Node, name) for name in (*_WATCHERS, "start_raylet") if hasattr(Node, name)}
    for name in starts:
        setattr(Node, name, _nothing)
    if "start_raylet" in starts:
        Node.start_raylet = _raylet(starts["start_raylet"])
    try:
        yield
    finally:
        for name, start in starts.items():
            setattr(Node, name, start)


def _nothing(*_: object, **__: object) -> None:
    """Start nothing."""


def _raylet(start: Any) -> Any:
    def start_raylet(node: Any, *arguments: Any, **options: Any) -> Any:
        parameters: Any = getattr(node, "_ray_params", None)
        if hasattr(parameters, "setup_worker_path"):
            parameters.setup_worker_path = str(_WORKER)
        return start(node, *arguments, **options)

    return start_raylet
