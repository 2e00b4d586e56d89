"""The attacker's worker beside a running federation: takes captures as they come, ends cleanly, does nothing twice."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attack_bench import TINY
from filelock import FileLock

from attacker.settings import Attacker
from attacker.worker import Bench, Plan, main
from fedinverse.data import Request, open_source
from fedinverse.errors import IntegrityError, StageError
from fedinverse.layout import ABOUT
from fedinverse.models import build
from fedinverse.run import prepare
from fedinverse.storage import load_weights, read_metadata, save_weights, to_weights
from pipeline.experiment import resolved
from pipeline.stages import inversions
from pipeline.stages.controls import controls
from pipeline.stages.federate import federate
from pipeline.stages.invert import Meanwhile, invert, samples_beforehand
from report.console import console

ROOT = Path(__file__).parent.parent
PATIENCE = 60.0


def arrives(spool: Path, number: int) -> None:
    weights = to_weights(build("mcnn", 5, width=0.1, seed=number))
    about: dict[str, str | int | float] = {"model-round": number, "model": "mcnn", "width": 0.1, "classes": 5}
    save_weights(spool / f"round-{number:04d}.safetensors", weights, about)


def plan_at(path: Path, **changes: Any) -> Plan:
    pool = open_source(Request("glyphs", (1, 32, 32), limit=30))
    plan = Plan(
        spool=str(path / "captures"),
        controls=(),
        shard="",
        public=str(pool.path),
        classes=5,
        store=str(path / "inversions"),
        seed=0,
        attacker={"rounds": "every", "every_nth": 2, "classes": [0, 3], "restarts": 1} | changes,
        attacks={"kedmi": {"kind": "kedmi"} | TINY["kedmi"]},
    )
    plan.write(path / "plan.json")
    return plan


def finished(plan: Plan) -> list[int]:
    """Return the rounds whose inversion is there."""
    return [job.where.about.model_round for job in Bench(plan).jobs() if job.where.done]


def until(met: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not met():
        assert time.monotonic() < end, "the worker did not do it"
        time.sleep(0.1)


@contextmanager
def watcher(path: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "attacker.worker", str(path / "plan.json"), "--watch"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_it_takes_captures_as_they_come_and_survives_a_kill(tmp_path: Path) -> None:
    plan, spool = plan_at(tmp_path), tmp_path / "captures"

    def there(count: int) -> Callable[[], bool]:
        return lambda: len(list(Path(plan.store).rglob(ABOUT))) == count

    with watcher(tmp_path) as process:  # started before the first capture
        arrives(spool, 1)  # not in the schedule
        arrives(spool, 2)
        until(there(1))
        process.kill()
    stamps = {path: path.stat().st_mtime_ns for path in Path(plan.store).rglob(ABOUT)}
    with watcher(tmp_path) as process:
        arrives(spool, 4)
        until(there(2))
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    arrives(spool, 5)  # the last: due only when no more will come
    with watcher(tmp_path) as process:
        Plan.stop(tmp_path / "plan.json").touch()
        assert process.wait(PATIENCE) == 0
    assert finished(plan) == [2, 4, 5]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())  # nothing was done twice


def test_a_damaged_plan_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plan.json").write_text('{"spool": "x"}')
    assert main([str(tmp_path / "plan.json")]) == 2
    assert "plan.json: 'controls'" in capsys.readouterr().err


def test_a_plan_that_names_an_impossible_place_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replace(plan_at(tmp_path), spool="x" * 5000).write(tmp_path / "plan.json")
    assert main([str(tmp_path / "plan.json")]) == 2
    message = capsys.readouterr().err
    assert "plan.json names 'xxx" in message
    assert "no place for files" in message


@pytest.mark.parametrize(
    ("settings", "during"),
    [
        ({}, False),
        ({"device": "cuda:1"}, True),
        ({"device": "cuda:1", "when": "after"}, False),
        ({"when": "during"}, True),
    ],
)
def test_when_it_works_and_what_it_says(settings: dict[str, Any], during: bool) -> None:
    attacker = Attacker(**settings)
    assert attacker.during == during
    assert ("shares with the clients" in attacker.sharing) == (attacker.device == "cpu")


def test_during_and_after_end_alike(tiny: Any) -> None:
    def results(when: str) -> list[np.ndarray[Any, Any]]:
        experiment = tiny(name=when, federation={"rounds": 2}, attacker={"rounds": "every", "when": when})
        run = prepare(Path(experiment.out) / when, resolved(experiment))
        beforehand = samples_beforehand(run)
        assert beforehand is not None
        with Meanwhile(run):
            federate(run, ["with_victim"], experiment.engine)
            if when == "during":
                until(lambda: any(run.files.attacker.inversions.rglob(ABOUT)))
        if when == "after":  # the prior is in the cache by now: its samples are there before any inversion
            assert all(path.exists() for path in beforehand)
        invert(run, controls(run))
        assert inversions.read_inversions(run).samples == beforehand
        return [each.inversion.load().images.numpy() for each in inversions.finished(run)]

    with console.capture() as said:
        during = results("during")
    assert "inverts what it captures on this machine's CPU, which it shares with the clients" in said.get()
    after = results("after")
    assert len(during) == len(after) > 2
    assert all(np.array_equal(one, other) for one, other in zip(during, after, strict=True))


def test_several_captures_are_inverted_together(tmp_path: Path) -> None:
    """Earlier rounds of different weights join; a control is joined by its own world's models of the same rounds."""
    attack = {"kind": "gmi", "captures": 4} | TINY["gmi"]
    plan = replace(plan_at(tmp_path, rounds=[2, 5], every_nth=1), attacks={"gmi": attack})
    spool, world, alone = Path(plan.spool), tmp_path / "other", tmp_path / "own-shard.safetensors"
    for number in (1, 2, 3, 4, 5):
        arrives(spool, number)
        arrives(world, number)
    second = spool / "round-0002.safetensors"
    save_weights(spool / "round-0003.safetensors", load_weights(second)[0], read_metadata(second) | {"model-round": 3})
    shutil.copy(spool / "round-0005.safetensors", alone)
    plan = replace(plan, controls=(str(world / "round-0005.safetensors"), str(alone)))
    jobs = list(Bench(plan).jobs())
    rounds = [[path.parent.name + path.name[9:10] for path in job.earlier] for job in jobs]
    assert rounds == [["captures1"], ["captures4", "captures3", "captures1"], ["other4", "other3", "other1"], []]
    assert len({job.where.path for job in jobs}) == 4
    Bench(plan).work()
    abouts = [job.where.about for job in jobs]
    assert [about.captures for about in abouts] == [(2, 1), (5, 4, 3, 1), (5, 4, 3, 1), (5,)]
    assert abouts[0].notes == ("2 of the 4 captures asked for: no more of different weights",)
    assert abouts[1].notes == ()
    (world / "round-0003.safetensors").unlink()
    with pytest.raises(StageError, match=r"other/round-0003.* was not kept"):
        list(Bench(plan).jobs())


def test_equal_captures_are_one(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, rounds="last")
    spool = Path(plan.spool)
    arrives(spool, 4)
    last = spool / "round-0004.safetensors"
    for number in (1, 2, 3):
        weights, about = load_weights(last)
        save_weights(spool / f"round-{number:04d}.safetensors", weights, about | {"model-round": number})
    for captures in (1, 3):
        attack = {"kind": "kedmi", "captures": captures} | TINY["kedmi"]
        Bench(replace(plan, attacks={"kedmi": attack})).work()
    one, other = sorted(Path(plan.store).glob("kedmi/*/reconstructions.safetensors"))
    assert one.read_bytes() == other.read_bytes()


def test_captures_of_two_networks_are_not_mixed(tmp_path: Path) -> None:
    plan = replace(plan_at(tmp_path, rounds="last"), attacks={"gmi": {"kind": "gmi", "captures": 2} | TINY["gmi"]})
    arrives(Path(plan.spool), 2)
    weights = to_weights(build("lenet5", 5, width=0.1, seed=0))
    about = {"model-round": 1, "model": "lenet5", "width": 0.1, "classes": 5}
    save_weights(Path(plan.spool) / "round-0001.safetensors", weights, about)
    with pytest.raises(IntegrityError, match="different networks"):
        list(Bench(plan).jobs())


@pytest.mark.parametrize("rounds", ["last", "new_best"])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"width": "1e9"}, "says width 1e"),
        ({"width": "nan"}, "says width nan"),
        ({"width": "4.0"}, "is not 'mcnn' of width 4"),
        ({"classes": "1000000000"}, "its largest array has"),
        ({"classes": "-5"}, "says -5 classes"),
        ({"classes": "many"}, "must say model, classes and width"),
        ({"width": None}, "must say model, classes and width"),
        ({"model": "ir152"}, "is not 'ir152'"),
        ({"model": "imported_here:Net?shape=1,32,32"}, "operator did not name"),
        ({"model": "torchvision:resnet18?shape=1,32,32&output=imported_here:f"}, "operator did not name"),
        ({"model": "mcnn?shape=1,32,32&transform=imported_here%3Af"}, "operator did not name"),
    ],
)
def test_a_capture_that_claims_another_network_is_refused_before_one_is_built(
    rounds: str, changes: dict[str, str | None], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_here.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plan = plan_at(tmp_path, rounds=rounds)
    about = {"model-round": "2", "model": "mcnn", "width": "0.1", "classes": "5"} | changes
    path = tmp_path / "captures" / "round-0002.safetensors"
    kept = {key: value for key, value in about.items() if value is not None}
    save_weights(path, to_weights(build("mcnn", 5, width=0.1, seed=0)), kept)
    monkeypatch.setattr("fedinverse.models.shapes.build", on_no_memory(build))
    with pytest.raises(IntegrityError, match=reason) as refused:
        Bench(plan).work()
    assert "round-0002" in str(refused.value)


def on_no_memory(build: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``build`` for networks without memory; any other is one too many."""

    def checked(*arguments: Any, **named: Any) -> Any:
        assert str(torch.get_default_device()) == "meta"
        return build(*arguments, **named)

    return checked


def test_workers_do_what_no_other_does_and_wait_for_the_rest(tmp_path: Path) -> None:
    # Fails if a worker waits for the first job before it does the others, does it twice, or ends before it is done.
    plan = plan_at(tmp_path, rounds=[1, 2], every_nth=1)
    for number in (1, 2):
        arrives(Path(plan.spool), number)
    first, second = Bench(plan).jobs()
    with ThreadPoolExecutor(1) as other, FileLock(first.where.lock):
        working = other.submit(Bench(plan).work)
        until(lambda: second.where.done)
        assert not first.where.done
        assert not working.done()
        Bench(plan)._do(first, "")
        written = (first.where.path / ABOUT).stat().st_mtime_ns
    working.result()
    assert (first.where.path / ABOUT).stat().st_mtime_ns == written


def test_a_worker_that_is_stopped_by_hand_says_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("attacker.worker._run", interrupted)
    assert main(["plan.json"]) == 130
    assert capsys.readouterr().err == "stopped; what was finished is kept, and the same command goes on with it\n"
