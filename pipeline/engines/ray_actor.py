"""The actor of the ``ray`` engine, as Ray is told of it.

Nothing of a client is imported with this file, so that Ray starts before PyTorch and Flower are there.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

if TYPE_CHECKING:
    from flwr.app import Context, Message, RecordDict


@ray.remote
class ClientActor:
    """A ``ClientProcess``."""

    def __init__(self, profile: bool) -> None:
        from pipeline.engines.client_process import ClientProcess

        self._process = ClientProcess(profile=profile)

    @ray.method(max_task_retries=-1)
    def ready(self) -> bool:
        """Return True once the imports are done, after as many restarts as it takes."""
        return True

    def handle(self, message: "Message", broadcast: list[Any], context: "Context") -> "tuple[Message, RecordDict]":
        """See ``ClientProcess.handle``."""
        return self._process.handle(message, broadcast, context)

    def leave_profile(self, directory: Path) -> None:
        """See ``ClientProcess.leave_profile``."""
        self._process.leave_profile(directory)
