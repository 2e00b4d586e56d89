"""The ``ray`` engine: Ray actors hold the ClientApp; arrays go to and fro in shared memory, the global model once.

Against Flower's own Ray backend: no polling, no serialisation of the model per client, an actor that dies is restarted
and its message sent again, and the largest shards start first so that no round ends waiting for one client.
"""

import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import ServerApp

from fedinverse.flower_compat import ErrorCode
from fedinverse.layout import World
from fedinverse.messages import ARRAYS
from fedinverse.run import Run
from fedinverse.split import holdings
from pipeline.engines.ray_session import RaySession
from pipeline.engines.simulated import SimulatedGrid, context_of, error_reply, explain

log = logging.getLogger("fedinverse.engine")
_TRIES = 3  # a message whose actor died is sent again: the client's work is deterministic and has no side effect
_MAILBOX = 2  # messages in flight per actor: the next one is there when the first is done
_LOOK = 0.5  # seconds after which a waiting server looks whether it is to stop


@dataclass
class _Sent:
    """A message in flight."""

    message: Message
    tries: int = 1
    actor: int = field(default=-1)


class RayGrid(SimulatedGrid):
    """Hands messages to the actor with the shortest queue.

    Attributes:
        idle: what is called in every round once a core of this machine has no client to train, or ``_LOOK`` later.
    """

    idle: Callable[[], None] | None = None

    def __init__(self, run: Run, world: World, session: RaySession) -> None:
        super().__init__(run, world, session.engine.device)
        self._session, self._actors = session, session.actors
        self._sent: dict[int, ArrayRecord] = {}
        self._restarting = {reference: number for number, reference in session.restarting.items()}
        held = holdings(run.split, run.population.clients, len(run.class_names)).sum(1)
        self._size = {partition + 1: int(images) for partition, images in enumerate(held)}

    def answer(self, messages: list[Message], timeout: float | None) -> list[Message]:
        """Answer ``messages`` on the actors; what is not answered in time is left out and its actor restarted."""
        start = time.monotonic()
        deadline = None if timeout is None else start + timeout
        waiting = [_Sent(message) for message in messages]
        self._let_go(messages)
        waiting.sort(key=lambda sent: self._size[sent.message.metadata.dst_node_id])
        queues = dict.fromkeys(range(len(self._actors)), 0.0)
        queues |= dict.fromkeys(self._restarting.values(), math.inf)
        flying: dict[Any, _Sent] = {}
        replies: list[Message] = []
        fresh: list[Message] = []
        while waiting or flying:
            self._session.check()
            while waiting and min(queues.values()) < _MAILBOX:
                self._send(waiting.pop(), queues, flying)
            if self.idle is not None and (self._has_idle_core(queues) or time.monotonic() > start + _LOOK):
                self.idle()
            while fresh and self.arrived is not None:
                self.arrived(fresh.pop())
            left = math.inf if deadline is None else max(0.0, deadline - time.monotonic())
            done, _ = ray.wait([*flying, *self._restarting], num_returns=1, timeout=min(left, _LOOK))
            if not done and left <= _LOOK:
                self._abandon(flying, waiting, queues)
                break
            for reference in done:
                if reference in self._restarting:
                    queues[self._restarting.pop(reference)] = 0.0
                    continue
                sent = flying.pop(reference)
                queues[sent.actor] -= 1
                reply = self._collect(reference, sent, waiting, queues)
                if reply is not None:
                    replies.append(reply)
                    fresh.append(reply)
        return replies

    def leave_profiles(self, directory: Path) -> None:
        """Have every actor write what it spent its time on; one that was killed has lost it, and it is said."""
        for left in [actor.leave_profile.remote(directory) for actor in self._actors]:
            try:
                ray.get(left)
            except ray.exceptions.RayError as error:
                log.warning("an actor left no profile: %s", explain(error))

    def _has_idle_core(self, queues: dict[int, float]) -> bool:
        busy = sum(0 < length < math.inf for length in queues.values())
        return bool(self._session.engine.address) or busy < (os.cpu_count() or 1)

    def _send(self, sent: _Sent, queues: dict[int, float], flying: dict[Any, _Sent]) -> None:
        sent.actor = min(queues, key=queues.__getitem__)
        queues[sent.actor] += 1
        content, metadata = sent.message.content, sent.message.metadata
        arrays = self._session.sent.place(content[ARRAYS], sent.actor) if ARRAYS in content else None
        was_read = self._session.readers[sent.actor].done()
        light = Message(RecordDict({key: content[key] for key in content if key != ARRAYS}), metadata=metadata)
        handle = self._actors[sent.actor].handle
        flying[handle.remote(light, arrays, self.contexts[metadata.dst_node_id], was_read)] = sent

    def _let_go(self, messages: list[Message]) -> None:
        """Let go of the arrays that none of ``messages``, which are sent next, carries."""
        records = [message.content[ARRAYS] for message in messages if ARRAYS in message.content]
        sent, self._sent = self._sent, {id(record): record for record in records}
        for key in sent.keys() - self._sent.keys():
            self._session.sent.let_go(sent[key])

    def _await_restart(self, number: int, queues: dict[int, float]) -> None:
        """Send nothing to an actor that restarts: Ray would refuse it at once, and a message has only so many tries."""
        queues[number] = math.inf
        if number not in self._restarting.values():
            self._session.restarting[number] = self._actors[number].ready.remote()
            self._restarting[self._session.restarting[number]] = number

    def _collect(self, reference: Any, sent: _Sent, waiting: list[_Sent], queues: dict[int, float]) -> Message | None:
        """Return the reply; None when the actor died, or the reply is gone, and the message waits to be sent again."""
        node = sent.message.metadata.dst_node_id
        reply: Message
        try:
            parcel, was_read = ray.get(reference)
            self._session.sent.was_read(sent.actor, was_read)
            reply, self.contexts[node].state = self._session.readers[sent.actor].open(parcel)
        except (ray.exceptions.RayError, FileNotFoundError) as error:
            self._await_restart(sent.actor, queues)
            # It may live: what it raised is the cause, or that somebody removed what it wrote.
            failed = isinstance(error, ray.exceptions.RayTaskError | FileNotFoundError)
            what, cause = ("failed", getattr(error, "cause", error)) if failed else ("died", error)
            if not failed:
                self._session.forget(sent.actor)
            if sent.tries < _TRIES:
                log.warning("the actor of client %d %s; its message is sent again", node - 1, what)
                sent.tries += 1
                waiting.append(sent)
                return None
            return error_reply(sent.message, ErrorCode.UNKNOWN, f"its actor {what} {_TRIES} times: {explain(cause)}")
        if reply.has_error():
            log.warning("client %d failed: %s", node - 1, reply.error.reason)
        return reply

    def _abandon(self, flying: dict[Any, _Sent], waiting: list[_Sent], queues: dict[int, float]) -> None:
        """Restart the actors that still work, so that the next round does not queue behind them."""
        for number in {sent.actor for sent in flying.values()}:
            ray.kill(self._actors[number], no_restart=False)
            self._session.forget(number)
            self._await_restart(number, queues)
        late = sorted(sent.message.metadata.dst_node_id - 1 for sent in [*flying.values(), *waiting])
        log.warning("no reply in time from clients %s; the round goes on without them", late)


def run_on_ray(run: Run, world: World, session: RaySession, server: ServerApp, profiles: Path | None = None) -> None:
    """Run the federation on the actors of ``session``, which is started if it was not.

    With ``profiles``, what the actors did in this federation is left there at its end.

    Raises:
        ConfigError: Ray cannot be started or joined as the settings say; see ``RaySession.start``.
    """
    session.start()
    grid = RayGrid(run, world, session)
    server(grid, context_of(run, world))
    if profiles is not None:
        grid.leave_profiles(profiles.resolve())
