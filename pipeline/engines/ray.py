"""The ``ray`` engine: Ray actors hold the ClientApp; the global model goes into the object store once per round.

Against Flower's own Ray backend: no polling, no serialisation of the model per client, an actor that dies is restarted
and its message sent again, and the largest shards start first so that no round ends waiting for one client.
"""

import logging
import os
import time
from dataclasses import dataclass, field
from typing import Any

import ray
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.common.constant import ErrorCode

from fedinverse.errors import ConfigError
from fedinverse.flower import ARRAYS
from fedinverse.run import Run, World
from pipeline.engines.settings import Engine
from pipeline.engines.simulated import SimulatedGrid, error_reply, explain, server_context
from server.app import app as server_app

log = logging.getLogger("fedinverse.engine")
_TRIES = 3  # a message whose actor died is sent again: the client's work is deterministic and has no side effect
_MAILBOX = 2  # messages in flight per actor: the next one is there when the first is done


@ray.remote
class ClientActor:
    """One process that answers messages for any client, one at a time, on one thread."""

    def __init__(self) -> None:
        import torch

        from clients.app import app

        torch.set_num_threads(1)
        logging.getLogger("flwr").setLevel(logging.ERROR)
        self._app = app
        self._broadcast: tuple[Any, ArrayRecord | None] = (None, None)

    def ready(self) -> bool:
        """Return True once the imports are done."""
        return True

    def handle(self, message: Message, broadcast: list[Any], context: Context) -> tuple[Message, RecordDict]:
        """Answer ``message``, whose arrays are the object ``broadcast[0]``; return the reply and the node's state."""
        if broadcast:
            if (
                self._broadcast[0] != broadcast[0]
            ):  # the first message of a round fetches the model, the others reuse it
                self._broadcast = (broadcast[0], ray.get(broadcast[0]))
            arrays = self._broadcast[1]
            assert arrays is not None
            message.content = RecordDict({**message.content, ARRAYS: arrays})
        try:
            return self._app(message, context), context.state
        except Exception as error:
            return error_reply(message, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, explain(error)), context.state


@dataclass
class _Sent:
    """A message in flight."""

    message: Message
    broadcast: list[Any]
    tries: int = 1
    actor: int = field(default=-1)


class RayGrid(SimulatedGrid):
    """Hands messages to the actor with the shortest queue."""

    def __init__(self, run: Run, world: World, engine: Engine, count: int) -> None:
        super().__init__(run, world)
        options = ClientActor.options(  # type: ignore[attr-defined]
            num_cpus=engine.client_cpus, num_gpus=engine.client_gpus, max_restarts=-1, max_task_retries=0
        )
        self._actors = [options.remote() for _ in range(count)]
        held = run.split.groupby("client").size()
        self._size = {partition + 1: int(held.get(partition, 0)) for partition in range(run.population.clients)}

    def answer(self, messages: list[Message], timeout: float | None) -> list[Message]:
        """Answer ``messages`` on the actors; what is not answered in time is left out and its actor restarted."""
        deadline = None if timeout is None else time.monotonic() + timeout
        stored: dict[int, Any] = {}
        waiting = [_Sent(message, self._store(message, stored)) for message in messages]
        waiting.sort(key=lambda sent: self._size[sent.message.metadata.dst_node_id])
        queues = dict.fromkeys(range(len(self._actors)), 0)
        flying: dict[Any, _Sent] = {}
        replies: list[Message] = []
        while waiting or flying:
            while waiting and min(queues.values()) < _MAILBOX:
                self._send(waiting.pop(), queues, flying)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            done, _ = ray.wait(list(flying), num_returns=1, timeout=left)
            if not done:
                self._abandon(flying, queues)
                break
            for reference in done:
                sent = flying.pop(reference)
                queues[sent.actor] -= 1
                reply = self._collect(reference, sent, waiting)
                if reply is not None:
                    replies.append(reply)
        return replies

    def _store(self, message: Message, stored: dict[int, Any]) -> list[Any]:
        """Put the arrays of ``message`` into the object store, each distinct record once."""
        if ARRAYS not in message.content:
            return []
        record = message.content[ARRAYS]
        if id(record) not in stored:
            stored[id(record)] = ray.put(record)
        return [stored[id(record)]]

    def _send(self, sent: _Sent, queues: dict[int, int], flying: dict[Any, _Sent]) -> None:
        sent.actor = min(queues, key=queues.__getitem__)
        queues[sent.actor] += 1
        light = RecordDict({key: value for key, value in sent.message.content.items() if key != ARRAYS})
        message = Message(light, metadata=sent.message.metadata)
        context = self.contexts[sent.message.metadata.dst_node_id]
        flying[self._actors[sent.actor].handle.remote(message, sent.broadcast, context)] = sent

    def _collect(self, reference: Any, sent: _Sent, waiting: list[_Sent]) -> Message | None:
        """Return the reply; None when the actor died and the message waits to be sent again."""
        node = sent.message.metadata.dst_node_id
        try:
            reply, state = ray.get(reference)
        except ray.exceptions.RayError as error:
            if sent.tries < _TRIES:
                log.warning("the actor of client %d died; its message is sent again", node - 1)
                sent.tries += 1
                waiting.append(sent)
                return None
            return error_reply(sent.message, ErrorCode.UNKNOWN, f"its actor died {_TRIES} times: {explain(error)}")
        self.contexts[node].state = state
        if reply.has_error():
            log.warning("client %d failed: %s", node - 1, reply.error.reason)
        return reply

    def _abandon(self, flying: dict[Any, _Sent], queues: dict[int, int]) -> None:
        """Restart the actors that still work, so that the next round does not queue behind them."""
        for number in {sent.actor for sent in flying.values()}:
            ray.kill(self._actors[number], no_restart=False)
            queues[number] = 0
        late = sorted(sent.message.metadata.dst_node_id - 1 for sent in flying.values())
        log.warning("no reply in time from clients %s; the round goes on without them", late)


def run_on_ray(run: Run, world: World, engine: Engine) -> None:
    """Start Ray (or join ``engine.address``), run the federation, and leave nothing running.

    Raises:
        ConfigError: the cluster lacks the resources one actor asks for.
    """
    count = engine.actors or os.cpu_count() or 1
    if engine.address:
        ray.init(address=engine.address, log_to_driver=False, logging_level=logging.ERROR)
    else:
        # "local": never join, or wait for, a cluster that somebody else left behind
        ray.init(
            address="local",
            num_cpus=max(1, round(count * engine.client_cpus)),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    try:
        have = ray.cluster_resources()
        if have.get("GPU", 0) < engine.client_gpus or have.get("CPU", 0) < engine.client_cpus:
            raise ConfigError(
                f"engine: a client asks for {engine.client_cpus:g} CPUs and {engine.client_gpus:g} GPUs, but Ray has "
                f"{have.get('CPU', 0):g} and {have.get('GPU', 0):g}; lower engine.client_cpus / engine.client_gpus"
            )
        server_app(RayGrid(run, world, engine, count), server_context())
    finally:
        ray.shutdown()
