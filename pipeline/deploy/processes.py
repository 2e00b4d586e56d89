"""Processes that belong to somebody: started in groups of their own, ended with everything they started.

Flower detaches some of its processes from their parent. All inherit a mark in their environment by which they are found
again; where the system shows no environments (no ``/proc``), Flower's processes end by watching their parents.
"""

import os
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from fedinverse.errors import StageError
from pipeline.deploy.commands import program

_MARK = "FEDINVERSE_DEPLOYMENT"
_GRACE = 10.0  # seconds a process has to end by itself
_LOG = 20_000_000  # bytes of a log before it is begun anew; one old one is kept
_TAIL = 12  # lines of a log shown in a message


@dataclass(frozen=True)
class Owned:
    """A running process and where it logs."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


class Processes:
    """Owns processes; leaving the context ends them all, whatever happened inside. The first one is ended last."""

    def __init__(self) -> None:
        self._mark = secrets.token_hex(16)
        self._owned: list[Owned] = []
        self._handler: Any = None

    def __enter__(self) -> "Processes":
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGTERM, _leave)  # so that a terminated owner leaves the context
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            if self._handler is not None:
                signal.signal(signal.SIGTERM, self._handler)

    def start(
        self, name: str, command: list[str], environment: dict[str, str], log: Path, within: tuple[str, ...] = ()
    ) -> Owned:
        """Start ``command``, a program installed beside this Python; its output goes to ``log``.

        ``within`` is what the command line begins with, see ``pipeline.deploy.network``.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*within, *program(command)],
                env=environment | {_MARK: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        owned = Owned(name, process, log)
        self._owned.append(owned)
        return owned

    def check(self) -> None:
        """Raise ``StageError`` naming the process and its log if one has ended; keep logs from growing without end."""
        for owned in self._owned:
            _rotate(owned.log)
            code = owned.process.poll()
            if code is not None:
                raise StageError(f"{owned.name} ended with code {code}; see {owned.log}:\n{tail(owned.log)}")

    def wait_until(self, what: str, ready: Callable[[], bool], seconds: float, pause: float = 0.2) -> None:
        """Return once ``ready()`` is true.

        Raises:
            StageError: it was not within ``seconds``, or a process ended before; names ``what`` and the logs.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                logs = ", ".join(str(owned.log) for owned in self._owned)
                raise StageError(f"waited {seconds:g} s in vain until {what}; see {logs}")
            time.sleep(pause)

    def running(self) -> list[int]:
        """Return the ids of all living processes that were started here, or by one that was, detached or not."""
        mark = f"{_MARK}={self._mark}".encode()
        pids = []
        for directory in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it ended meanwhile, or is another user's
                if mark in (directory / "environ").read_bytes().split(b"\0"):
                    pids.append(int(directory.name))
        return sorted(pids)

    def stop(self) -> None:
        """End everything, gracefully first; return when nothing is left.

        Raises:
            StageError: a process outlives even SIGKILL; names its id.
        """
        try:
            # The nodes take their leave from the SuperLink, so it goes after them.
            for wave in (self._owned[1:], self._owned[:1]):
                for owned in wave:
                    _signal_group(owned, signal.SIGTERM)
                _wait(wave, time.monotonic() + _GRACE)
            self._until_gone(_GRACE)
        finally:
            for owned in self._owned:
                _signal_group(owned, signal.SIGKILL)
            for pid in self.running():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            _wait(self._owned, time.monotonic() + _GRACE)
            self._owned.clear()
        left = self._until_gone(_GRACE)
        if left:
            raise StageError(f"processes {left} of the deployment do not end; end them by hand")

    def _until_gone(self, seconds: float) -> list[int]:
        deadline = time.monotonic() + seconds
        while (left := self.running()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left


def _rotate(log: Path) -> None:
    """Move the content of a log that has become large to ``.1``; its writer appends and goes on at the beginning."""
    with suppress(OSError):
        if log.stat().st_size > _LOG:
            shutil.copyfile(log, log.with_name(f"{log.name}.1"))
            os.truncate(log, 0)


def tail(log: Path) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:])


def _signal_group(owned: Owned, number: signal.Signals) -> None:
    """Signal the group of a process that still runs; its id is not another's before it was waited for."""
    if owned.process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(owned.process.pid, number)


def _wait(some: list[Owned], deadline: float) -> None:
    for owned in some:
        with suppress(subprocess.TimeoutExpired):
            owned.process.wait(timeout=max(0.0, deadline - time.monotonic()))


def _leave(number: int, frame: FrameType | None) -> None:
    del frame
    raise SystemExit(128 + number)
