"""Ray and its actors: started beside whatever a run does first, kept from one federation to the next, and ended.

Ray itself is imported by the thread that starts it, and only then.
"""

import logging
import math
import os
import socket
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any, Self

from fedinverse.errors import ConfigError, StageError
from fedinverse.folders import absolute
from fedinverse.registry import search_path
from pipeline.engines.environment import environment
from pipeline.engines.forks import ForkServer
from pipeline.engines.parcels import Reader, new_prefix, sweep
from pipeline.engines.ray_worker import SOCKET
from pipeline.engines.sent_arrays import SentArrays
from pipeline.engines.settings import Engine

CACHE = "FEDINVERSE_CACHE"
_CONNECT = 10.0  # seconds


class RaySession:
    """Ray and its actors, which answer for the worlds of a run, one after the other or side by side.

    Attributes:
        engine: its settings.
        profile: whether actors run under cProfile.
        actors: the processes that answer messages, once Ray is there.
        restarting: number of an actor that was restarted -> what it answers when it is back.
        sent: the arrays that are sent to them.
        readers: what opens their replies, by number.
    """

    def __init__(self, engine: Engine, *, profile: bool = False) -> None:
        self.engine, self.profile = engine, profile
        self.actors: list[Any] = []
        self.restarting: dict[int, Any] = {}
        self._prefix = "" if engine.address else new_prefix()
        self.sent = SentArrays(self._prefix)
        self.readers: list[Reader] = []
        self._forks: ForkServer | None = None
        self._ready = False
        self._stopped = threading.Event()
        # Linux kills Ray's processes when the thread that started them ends: it is the session's, and lives as long.
        self._thread = ThreadPoolExecutor(1, "ray")
        self._starting: Future[None] | None = None

    def begin(self) -> None:
        """Start beside whatever follows, once: Ray and its actors take seconds, mostly waiting for processes."""
        if self._starting is None:
            if sys.platform == "linux" and not self.engine.address and not self.engine.client_gpus:
                with suppress(OSError):  # what it lacks, Ray lacks, too, and says so
                    self._forks = ForkServer()
            self._starting = self._thread.submit(self._start)

    def end(self) -> None:
        """Stop Ray beside whatever follows; the actors answer no more. The block's end waits until it is stopped."""
        if self._ready:
            self._ready, self.actors = False, []
            self._thread.submit(self._stop)

    def _stop(self) -> None:
        import ray

        ray.shutdown()
        self._end_forks()
        sweep(self._prefix)

    def _end_forks(self) -> None:
        if self._forks is not None:
            self._forks.end()

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
        import ray

        from pipeline.engines.ray_actor import ClientActor

        engine = self.engine
        # Ray hands on the script's directory alone, and its processes start elsewhere.
        places = {"PYTHONPATH": search_path(), CACHE: absolute(os.environ.get(CACHE, ""))}
        places["RAY_prestart_worker_first_driver"] = "0"  # ``ray.init`` would wait for workers, and hold up all threads
        if self._forks is not None:
            places[SOCKET] = self._forks.path
        with environment({name: place for name, place in places.items() if place}):
            if engine.address:
                _join(engine.address)
            else:
                _start(math.ceil(engine.actors * engine.client_cpus) or os.cpu_count() or 1)
        self._ready = True  # whatever follows, Ray is to be ended
        fit = engine.fitting(ray.cluster_resources())
        options = ClientActor.options(  # type: ignore[attr-defined]
            num_cpus=engine.client_cpus, num_gpus=engine.client_gpus, max_restarts=-1, max_task_retries=0
        )
        self.actors = [options.remote(self.profile, self._prefix) for _ in range(engine.actors or fit)]
        self.readers = [Reader() for _ in self.actors]

    def forget(self, number: int) -> None:
        """Remove what an actor that is no more has left."""
        self.sent.is_lost(number)
        self.readers[number].remove()
        self.readers[number] = Reader()

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
        self._end_forks()  # where Ray did not start


def _start(cpus: int) -> None:
    """Start Ray on this machine; what it started before it failed is ended."""
    import ray

    from pipeline.engines.ray_processes import few_processes

    try:
        # "local": never join, or wait for, a cluster that somebody else left behind
        with few_processes():
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
    import ray

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
