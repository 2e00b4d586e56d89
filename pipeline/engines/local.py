"""The ``local`` engine: clients answer one after the other in this process. Tests, debugging, one GPU, no Ray."""

import logging
import math
import time

import torch
from flwr.app import Message
from flwr.serverapp import ServerApp

from clients.app import app as client_app
from fedinverse.flower_compat import ErrorCode
from fedinverse.layout import World
from fedinverse.run import Run
from pipeline.engines.settings import Engine
from pipeline.engines.simulated import SimulatedGrid, context_of, error_reply, explain

log = logging.getLogger("fedinverse.engine")


class LocalGrid(SimulatedGrid):
    """Calls the ClientApp directly."""

    def answer(self, messages: list[Message], timeout: float | None) -> list[Message]:
        """Answer in order; a reply that is not there in time is left out. (A client at work is not interrupted.)"""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        replies, late = [], []
        for message in messages:
            reply = self._answer(message) if time.monotonic() < deadline else None
            if reply is None or time.monotonic() > deadline:
                late.append(message.metadata.dst_node_id - 1)
            else:
                replies.append(reply)
        if late:
            log.warning("no reply in time from clients %s; the round goes on without them", late)
        return replies

    def _answer(self, message: Message) -> Message:
        try:
            return client_app(message, self.contexts[message.metadata.dst_node_id])
        except Exception as error:  # a client may fail in any way; the federation goes on
            log.warning("client %d failed: %s", message.metadata.dst_node_id - 1, explain(error))
            return error_reply(message, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, explain(error))


def run_local(run: Run, world: World, engine: Engine, server: ServerApp) -> None:
    """Run the federation in this process, on one thread: sums depend on the number of threads, actors have one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        server(LocalGrid(run, world, engine.device), context_of(run, world))
    finally:
        torch.set_num_threads(threads)
