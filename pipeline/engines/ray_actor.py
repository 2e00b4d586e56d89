"""The actor of the ``ray`` engine, as Ray is told of it.

Nothing of a client is imported with this file, so that Ray starts before PyTorch and Flower are there.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import ray

if TYPE_CHECKING:
    from flwr.app import Context, Message

    from pipeline.engines.client_process import Sent
    from pipeline.engines.parcels import Parcel


@ray.remote
class ClientActor:
    """A ``ClientProcess``."""

    def __init__(self, profile: bool, prefix: str) -> None:
        from pipeline.engines.client_process import ClientProcess

        self._process = ClientProcess(profile=profile, prefix=prefix)

    @ray.method(max_task_retries=-1)
    def ready(self) -> bool:
        """Return True once the imports are done, after as many restarts as it takes."""
        return True

    def handle(
        self, message: "Message", arrays: "Sent | None", context: "Context", was_read: list[str]
    ) -> "tuple[Parcel, list[str]]":
        """See ``ClientProcess.handle``."""
        return self._process.handle(message, arrays, context, was_read)

    def leave_profile(self, directory: Path) -> None:
        """See ``ClientProcess.leave_profile``."""
        self._process.leave_profile(directory)
