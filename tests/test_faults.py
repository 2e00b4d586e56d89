"""Crashes, a full disk and a jumping clock: what ends well by itself does, the rest resumes to the same hashes.

Kills at any moment are in ``test_end_to_end.py``; ``benchmarks/faults.py`` does all of it to whole runs, at length.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from strategy_rounds import Load, federated, hashes

from fedinverse.errors import StageError
from fedinverse.run import Run, prepare
from fedinverse.storage import read_jsonl, read_metadata
from pipeline.engines import run_federation
from pipeline.experiment import resolved
from pipeline.stages.controls import controls
from pipeline.stages.invert import invert, planned


def descendants(wanted: str) -> list[int]:
    """Return the processes started by this one, at any remove, the nearest first, whose command line has ``wanted``."""
    parents, pids = {}, []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if wanted.encode() in (entry / "cmdline").read_bytes().replace(b"\0", b" "):
                    pids.append(int(entry.name))

    def remove(process: int) -> int | None:
        steps = 0
        while process in parents and process != os.getpid():
            process, steps = parents[process], steps + 1
        return steps if process == os.getpid() else None

    removes = {process: steps for process in pids if (steps := remove(process)) is not None}
    return sorted(removes, key=lambda process: (removes[process], process))


class Crashes(threading.Thread):
    """SIGKILLs one of this process's descendants called ``wanted`` whenever ``due`` counts one more."""

    def __init__(self, wanted: str, due: Callable[[], int]) -> None:
        super().__init__(daemon=True)
        self._wanted, self._due, self._seen, self.killed = wanted, due, 0, 0
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.wait(0.01):
            count = self._due()
            victims = descendants(self._wanted) if count > self._seen else []
            if victims:
                with suppress(ProcessLookupError):
                    os.kill(victims[self.killed % len(victims)], signal.SIGKILL)
                    self._seen, self.killed = count, self.killed + 1

    def __enter__(self) -> "Crashes":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.join()


def test_an_actor_that_crashes_after_every_round_changes_no_model(tiny: Load, tmp_path: Path) -> None:
    whole = federated(tiny(), tmp_path / "whole")
    rounds = Run(tmp_path / "crashing").files.server.rounds("with_victim")
    with Crashes("ray::ClientActor", lambda: min(len(read_jsonl(rounds)), 2)) as crashes:
        run = federated(tiny(engine={"kind": "ray", "actors": 2}), tmp_path / "crashing")
    assert crashes.killed
    assert hashes(run) == hashes(whole)


def test_a_worker_that_crashes_is_told_of_and_its_work_is_done_on_resume(tiny: Load, tmp_path: Path) -> None:
    experiment = tiny(attacker={"processes": 1}, attacks={"gmi": {"iterations": 200}})  # time to be killed in
    whole = federated(experiment, tmp_path / "whole")
    planned(whole, controls(whole)).work()
    run = federated(experiment, tmp_path / "crashing")

    def finished() -> int:
        return min(len(list(run.files.attacker.inversions.rglob("about.json"))), 1)

    workers = f"{run.files.attacker.plan.resolve()} --child {os.getpid()}"
    with Crashes(workers, finished) as crashes, pytest.raises(StageError, match="worker ended with -9"):
        invert(run, controls(run))
    assert crashes.killed == 1
    assert finished()
    invert(run, controls(run))

    def reconstructions_of(of: Run) -> dict[str, str]:
        files = of.files.attacker.inversions.rglob("*.safetensors")
        return {str(path.relative_to(of.files.attacker.inversions)): read_metadata(path)["sha256"] for path in files}

    assert reconstructions_of(run) == reconstructions_of(whole)


@pytest.mark.parametrize("write", [3, 8])
def test_a_disk_that_fills_up_stops_the_run_which_goes_on_when_there_is_room(
    write: int, tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = federated(tiny(), tmp_path / "whole")
    fsync, count = os.fsync, iter(range(10**6))

    def full(handle: int) -> None:
        if next(count) >= write:
            raise OSError(28, "No space left on device")
        fsync(handle)

    experiment = tiny()
    run = prepare(tmp_path / "full", resolved(experiment))
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run_federation(run, "with_victim", experiment.engine)
    monkeypatch.undo()
    run_federation(run, "with_victim", experiment.engine)
    assert hashes(run) == hashes(whole)


@pytest.mark.parametrize("jump", [86400.0, -86400.0])
def test_a_jumping_clock_changes_no_model_and_drops_no_reply(
    jump: float, tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = federated(tiny(), tmp_path / "whole")
    true, start = time.time, time.monotonic()
    monkeypatch.setattr("time.time", lambda: true() + jump * (round((time.monotonic() - start) / 0.02) % 2))
    run = federated(tiny(), tmp_path / "jumping")
    assert hashes(run) == hashes(whole)
    reports = read_jsonl(run.files.server.client_reports("with_victim"))
    assert len(reports) == len(read_jsonl(whole.files.server.client_reports("with_victim")))
