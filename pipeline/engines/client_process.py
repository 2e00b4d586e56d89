"""What an actor does: the ClientApp in one process, on one thread, for whichever client a message is sent to."""

import cProfile
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict

from clients.app import app
from fedinverse.flower_compat import ErrorCode
from fedinverse.messages import ARRAYS
from fedinverse.profiling import leave
from pipeline.engines.parcels import Parcel, Reader, Shelf
from pipeline.engines.simulated import error_reply, explain

Sent = Parcel | list[Any]
"""Arrays on their way to a process of this machine, or of another: an object of Ray's, in a list to stay one."""


class ClientProcess:
    """Answers messages, one at a time; with ``profile``, under cProfile.

    What it answers with is in files whose names begin with ``prefix``; empty: in no file.
    """

    def __init__(self, *, profile: bool, prefix: str) -> None:
        torch.set_num_threads(1)
        logging.getLogger("flwr").setLevel(logging.ERROR)
        self._shelf, self._reader = Shelf(prefix), Reader()
        self._broadcast: tuple[Sent, ArrayRecord] | None = None
        self._profiler = cProfile.Profile() if profile else None

    def handle(
        self, message: Message, arrays: Sent | None, context: Context, was_read: list[str]
    ) -> tuple[Parcel, list[str]]:
        """Answer ``message``, whose arrays come apart from it; ``was_read`` are the files that may be written again.

        Returns:
            The reply and the node's state; and the files that this process has no longer in use.
        """
        self._shelf.take_back(was_read)
        with self._profiler or nullcontext():
            answer = self._shelf.pack(self._handle(message, arrays, context))
        return answer, self._reader.done()

    def _handle(self, message: Message, arrays: Sent | None, context: Context) -> tuple[Message, RecordDict]:
        if arrays is not None:
            message.content = RecordDict({**message.content, ARRAYS: self._fetch(arrays)})
        try:
            return app(message, context), context.state
        except Exception as error:
            return error_reply(message, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, explain(error)), context.state

    def _fetch(self, sent: Sent) -> ArrayRecord:
        """Return the arrays that were ``sent``: the first call of a round fetches the model for all of them."""
        if self._broadcast is None or self._broadcast[0] != sent:
            self._broadcast = (sent, self._reader.open(sent) if isinstance(sent, Parcel) else _fetched(sent[0]))
        return self._broadcast[1]

    def leave_profile(self, directory: Path) -> None:
        """Write what this process spent its time on while it answered messages."""
        assert self._profiler is not None
        leave(directory, "clients", self._profiler)
        self._profiler = cProfile.Profile()


def _fetched(reference: Any) -> ArrayRecord:
    """Return an object of Ray's."""
    import ray  # not before: a process that is forked must not have it, since it reads its environment once

    record: ArrayRecord = ray.get(reference)
    return record
