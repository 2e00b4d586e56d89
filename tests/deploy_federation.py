"""A deployment whose parts a test ends, kills and starts again one by one: every process has an owner of its own."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedinverse.layout import World
from fedinverse.run import Run, prepare
from fedinverse.storage import read_jsonl
from pipeline.deploy.control import Control
from pipeline.deploy.fleet import Fleet
from pipeline.deploy.parties import export_shards, node_configs, server_run
from pipeline.deploy.processes import Owned, Processes

WORLD: World = "with_victim"
WAIT = 150.0  # seconds: what is waited for takes 5 to 20 on a quiet machine


def processes_of(directory: Path) -> list[int]:
    """Return the ids of living processes whose environment names ``directory``: each has its Flower home there."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(directory).encode() in (process / "environ").read_bytes():
                pids.append(int(process.name))
    return pids


def until(what: str, ready: Callable[[], bool], seconds: float = WAIT) -> None:
    """Return once ``ready()``; fail naming ``what`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain until {what}"
        time.sleep(0.1)


class Deployment:
    """SuperLink and SuperNodes of one prepared run on loopback; leaving the context kills all of them."""

    def __init__(self, directory: Path, table: dict[str, Any]) -> None:
        self.run = prepare(directory / "run", table)
        self.nodes = node_configs(self.run)
        export_shards(self.run, self.nodes)
        self.server: Run = server_run(self.run)
        self.fleet = Fleet.on_loopback(directory / "fleet", len(self.nodes), directory / "superlink.db")
        self._owners: dict[str, tuple[Processes, Owned]] = {}

    def __enter__(self) -> "Deployment":
        return self

    def __exit__(self, *_: object) -> None:
        for owner, _ in self._owners.values():
            for pid in owner.running():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for owner, _ in self._owners.values():
            owner.stop()

    def _own(self, start: Callable[[Processes], Owned]) -> None:
        owner = Processes()
        try:
            started = start(owner)
        except BaseException:
            owner.stop()
            raise
        before = self._owners.get(started.name)
        if before:
            before[0].stop()
        self._owners[started.name] = owner, started

    def start_superlink(self) -> None:
        self._own(self.fleet.start_superlink)

    def start_node(self, number: int) -> None:
        self._own(lambda owner: self.fleet.start_node(owner, number, self.nodes[number]))

    def start(self) -> Control:
        """Start everything, submit the run; return the SuperLink's control."""
        self.start_superlink()
        control = self.fleet.connect(register=range(len(self.nodes)))
        for number in range(len(self.nodes)):
            self.start_node(number)
        return control

    def kill(self, name: str) -> None:
        """Kill a process with SIGKILL, which lets it take no leave; what it started must then end by itself."""
        owner, owned = self._owners.pop(name)
        owned.process.kill()
        owned.process.wait(10)
        until(f"what {name} started ends after it", lambda: not owner.running(), 60)
        owner.stop()

    def strike(self, number: int) -> None:
        """Send SIGKILL to a SuperNode and look no further; ``kill`` then waits for what it started."""
        self._owners[f"SuperNode {number:02d}"][1].process.kill()

    def ended(self, number: int) -> bool:
        """Return whether the process of a SuperNode has ended."""
        return self._owners[f"SuperNode {number:02d}"][1].process.poll() is not None

    def running(self, name: str) -> list[int]:
        """Return the ids of a process and all it started."""
        return self._owners[name][0].running()

    def client_apps(self, number: int) -> list[int]:
        """Return the ids of the ClientApp processes that work for a node just now."""
        pids = []
        for pid in self.running(f"SuperNode {number:02d}"):
            with suppress(OSError):
                if b"flwr-clientapp" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    pids.append(pid)
        return pids

    def rounds(self) -> list[int]:
        """Return the recorded rounds, as they were written."""
        return [line["round"] for line in read_jsonl(self.server.files.server.rounds(WORLD))]

    def until_round(self, number: int) -> None:
        until(f"round {number} is recorded", lambda: number in self.rounds())

    def until_done(self, control: Control, run_id: str) -> str:
        """Return how the run ended."""
        until(f"run {run_id} is over", lambda: control.status(run_id).startswith("finished"))
        return control.status(run_id)

    def trained(self, number: int) -> list[int]:
        """Return the partitions whose updates arrived in round ``number``."""
        lines = read_jsonl(self.server.files.server.client_reports(WORLD))
        return [line["partition"] for line in lines if line["round"] == number and "num-examples" in line]
