"""The ``ray`` engine: Ray actors hold the ClientApp; the global model goes into the object store once per round.

Against Flower's own Ray backend: no polling, no serialisation of the model per client, an actor that dies is restarted
and its message sent again, and the largest shards start first so that no round ends waiting for one client.
"""

import cProfile
import logging
import math
import os
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import ray
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.serverapp import ServerApp

from fedinverse.errors import ConfigError, StageError
from fedinverse.flower_compat import ErrorCode
from fedinverse.layout import World
from fedinverse.messages import ARRAYS
from fedinverse.profiling import leave
from fedinverse.registry import search_path
from fedinverse.run import Run
from fedinverse.split import holdings
from pipeline.engines.environment import environment
from pipeline.engines.ray_processes import no_watchers
from pipeline.engines.settings import Engine
from pipeline.engines.simulated import SimulatedGrid, context_of, error_reply, explain

log = logging.getLogger("fedinverse.engine")
_TRIES = 3  # a message whose actor died is sent again: the client's work is deterministic and has no side effect
_CONNECT = 10.0  # seconds
_MAILBOX = 2  # messages in flight per actor: the next one is there when the first is done
_LOOK = 0.5  # seconds after which a waiting server looks whether it is to stop


@ray.remote
class ClientActor:
    """One process that answers messages for any client, one at a time, on one thread."""

    def __init__(self, profile: bool) -> None:
        import torch

        from clients.app import app

        torch.set_num_threads(1)
        logging.getLogger("flwr").setLevel(logging.ERROR)
        self._app = app
        self._broadcast: tuple[Any, ArrayRecord | None] = (None, None)
        self._profiler = cProfile.Profile() if profile else None

    @ray.method(max_task_retries=-1)
    def ready(self) -> bool:
        """Return True once the imports are done, after as many restarts as it takes."""
        return True

    def handle(self, message: Message, broadcast: list[Any], context: Context) -> tuple[Message, RecordDict]:
        """Answer ``message``, whose arrays are the object ``broadcast[0]``; return the reply and the node's state."""
        with self._profiler or nullcontext():
            return self._handle(message, broadcast, context)

    def _handle(self, message: Message, broadcast: list[Any], context: Context) -> tuple[Message, RecordDict]:
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

    def leave_profile(self, directory: Path) -> None:
        """Write what this process spent its time on while it answered messages."""
        assert self._profiler is not None
        leave(directory, "clients", self._profiler)
        self._profiler = cProfile.Profile()


@dataclass
class _Sent:
    """A message in flight."""

    message: Message
    broadcast: list[Any]
    tries: int = 1
    actor: int = field(default=-1)


class RayGrid(SimulatedGrid):
    """Hands messages to the actor with the shortest queue."""

    def __init__(self, run: Run, world: World, session: "RaySession") -> None:
        super().__init__(run, world, session.engine.device)
        self._session, self._actors = session, session.actors
        self._restarting = {reference: number for number, reference in session.restarting.items()}
        held = holdings(run.split, run.population.clients, len(run.class_names)).sum(1)
        self._size = {partition + 1: int(images) for partition, images in enumerate(held)}

    def answer(self, messages: list[Message], timeout: float | None) -> list[Message]:
        """Answer ``messages`` on the actors; what is not answered in time is left out and its actor restarted."""
        deadline = None if timeout is None else time.monotonic() + timeout
        stored: dict[int, Any] = {}
        waiting = [_Sent(message, self._store(message, stored)) for message in messages]
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

    def _store(self, message: Message, stored: dict[int, Any]) -> list[Any]:
        """Put the arrays of ``message`` into the object store, each distinct record once."""
        if ARRAYS not in message.content:
            return []
        record = message.content[ARRAYS]
        if id(record) not in stored:
            stored[id(record)] = ray.put(record)
        return [stored[id(record)]]

    def _send(self, sent: _Sent, queues: dict[int, float], flying: dict[Any, _Sent]) -> None:
        sent.actor = min(queues, key=queues.__getitem__)
        queues[sent.actor] += 1
        light = RecordDict({key: value for key, value in sent.message.content.items() if key != ARRAYS})
        message = Message(light, metadata=sent.message.metadata)
        context = self.contexts[sent.message.metadata.dst_node_id]
        flying[self._actors[sent.actor].handle.remote(message, sent.broadcast, context)] = sent

    def _await_restart(self, number: int, queues: dict[int, float]) -> None:
        """Send nothing to an actor that restarts: Ray would refuse it at once, and a message has only so many tries."""
        queues[number] = math.inf
        if number not in self._restarting.values():
            self._session.restarting[number] = self._actors[number].ready.remote()
            self._restarting[self._session.restarting[number]] = number

    def _collect(self, reference: Any, sent: _Sent, waiting: list[_Sent], queues: dict[int, float]) -> Message | None:
        """Return the reply; None when the actor died and the message waits to be sent again."""
        node = sent.message.metadata.dst_node_id
        try:
            reply, state = ray.get(reference)
        except ray.exceptions.RayError as error:
            self._await_restart(sent.actor, queues)
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

    def _abandon(self, flying: dict[Any, _Sent], waiting: list[_Sent], queues: dict[int, float]) -> None:
        """Restart the actors that still work, so that the next round does not queue behind them."""
        for number in {sent.actor for sent in flying.values()}:
            ray.kill(self._actors[number], no_restart=False)
            self._await_restart(number, queues)
        late = sorted(sent.message.metadata.dst_node_id - 1 for sent in [*flying.values(), *waiting])
        log.warning("no reply in time from clients %s; the round goes on without them", late)


class RaySession:
    """Ray and its actors, which answer for the worlds of a run, one after the other or side by side.

    Attributes:
        engine: its settings.
        profile: whether actors run under cProfile.
        actors: the processes that answer messages, once Ray is there.
        restarting: number of an actor that was restarted -> what it answers when it is back.
    """

    def __init__(self, engine: Engine, *, profile: bool = False) -> None:
        self.engine, self.profile = engine, profile
        self.actors: list[Any] = []
        self.restarting: dict[int, Any] = {}
        self._ready = False
        self._stopped = threading.Event()
        # Linux kills Ray's processes when the thread that started them ends: it is the session's, and lives as long.
        self._thread = ThreadPoolExecutor(1, "ray")
        self._starting: Future[None] | None = None

    def begin(self) -> None:
        """Start beside whatever follows, once: Ray and its actors take seconds, mostly waiting for processes."""
        if self._starting is None:
            self._starting = self._thread.submit(self._start)

    def end(self) -> None:
        """Stop Ray beside whatever follows; the actors answer no more. The block's end waits until it is stopped."""
        if self._ready:
            self._ready, self.actors = False, []
            self._thread.submit(ray.shutdown)

    def start(self) -> None:
        """Start Ray (or join ``engine.address``) and the actors, unless they are there, or wait for those begun.

        Raises:
            ConfigError: Ray cannot start here, no cluster answers at ``engine.address``, the token is not its own, or
                it lacks the resources that the actors ask for.
        """
        self.begin()
        assert self._starting is not None
        self._starting.result()

    def _start(self) -> None:
        engine = self.engine
        with environment({"PYTHONPATH": search_path()}):  # Ray hands on the script's directory alone
            if engine.address:
                _join(engine.address)
            else:
                _start(math.ceil(engine.actors * engine.client_cpus) or os.cpu_count() or 1)
        self._ready = True  # whatever follows, Ray is to be ended
        fit = engine.fitting(ray.cluster_resources())
        options = ClientActor.options(  # type: ignore[attr-defined]
            num_cpus=engine.client_cpus, num_gpus=engine.client_gpus, max_restarts=-1, max_task_retries=0
        )
        self.actors = [options.remote(self.profile) for _ in range(engine.actors or fit)]

    def stop(self) -> None:
        """Have every federation on these actors end with an error, soon."""
        self._stopped.set()

    def check(self) -> None:
        """Raise ``StageError`` if the federations on these actors are to stop."""
        if self._stopped.is_set():
            raise StageError("the federation was stopped; start again with --resume")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._starting is not None:
            wait([self._starting])
        self.end()
        self._thread.shutdown()


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


def _start(cpus: int) -> None:
    """Start Ray on this machine; what it started before it failed is ended."""
    try:
        # "local": never join, or wait for, a cluster that somebody else left behind
        with no_watchers():
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:  # a node that does not come up in time is a plain Exception of Ray's
        ray.shutdown()
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise ConfigError(
            f"Ray cannot start here ({type(error).__name__}: {reason}); set engine.kind = 'local', which needs none, "
            "or try again when the machine is less busy"
        ) from error


def _join(address: str) -> None:
    """Connect to a running cluster. Ray would wait minutes for one that is not there, so it is looked for first."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT).close()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"engine.address '{address}': no Ray cluster answers there ({error}); give the host:port of its head"
        ) from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ray.exceptions.AuthenticationError) as error:  # a wrong token is told as either
        raise ConfigError(
            f"engine.address '{address}': what listens there refuses this driver ({error}); set RAY_AUTH_TOKEN to the "
            "token that the cluster was started with"
        ) from error
