"""What an actor does: the ClientApp in one process, on one thread, for whichever client a message is sent to."""

import cProfile
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ray
import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict

from clients.app import app
from fedinverse.flower_compat import ErrorCode
from fedinverse.messages import ARRAYS
from fedinverse.profiling import leave
from pipeline.engines.simulated import error_reply, explain


class ClientProcess:
    """Answers messages, one at a time; with ``profile``, under cProfile."""

    def __init__(self, *, profile: bool) -> None:
        torch.set_num_threads(1)
        logging.getLogger("flwr").setLevel(logging.ERROR)
        self._broadcast: tuple[Any, ArrayRecord | None] = (None, None)
        self._profiler = cProfile.Profile() if profile else None

    def handle(self, message: Message, broadcast: list[Any], context: Context) -> tuple[Message, RecordDict]:
        """Answer ``message``, whose arrays are the object ``broadcast[0]``; return the reply and the node's state."""
        with self._profiler or nullcontext():
            return self._handle(message, broadcast, context)

    def _handle(self, message: Message, broadcast: list[Any], context: Context) -> tuple[Message, RecordDict]:
        if broadcast:
            if self._broadcast[0] != broadcast[0]:  # the first message of a round fetches the model for all of them
                self._broadcast = (broadcast[0], ray.get(broadcast[0]))
            arrays = self._broadcast[1]
            assert arrays is not None
            message.content = RecordDict({**message.content, ARRAYS: arrays})
        try:
            return app(message, context), context.state
        except Exception as error:
            return error_reply(message, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, explain(error)), context.state

    def leave_profile(self, directory: Path) -> None:
        """Write what this process spent its time on while it answered messages."""
        assert self._profiler is not None
        leave(directory, "clients", self._profiler)
        self._profiler = cProfile.Profile()
