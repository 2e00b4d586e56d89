"""--profile: where the time went, by stage, role, round, inversion and function; was the disk reckoned right."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedinverse.disk import used
from fedinverse.errors import StageError
from fedinverse.profiling import added, hottest, profiled
from fedinverse.run import Run
from fedinverse.storage import read_json
from pipeline import profile
from pipeline.disk import needed
from pipeline.stages.all_stages import run_all

Load = Callable[..., Any]


def test_a_profile_adds_up_and_names_functions_rounds_and_inversions(
    tiny: Load, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path / "cache"))  # no prior lies there: it is trained
    experiment = tiny(attacker={"processes": 1})
    run = Run(run_all(experiment, resume=False, profile=True).parent)
    profile = read_json(run.files.profile)
    assert [stage["stage"] for stage in profile["stages"]] == [
        "prepare", "federate", "controls", "invert", "audit", "report",
    ]  # fmt: skip
    for stage in profile["stages"]:
        alone = sum(entry["own_seconds"] for entry in stage["functions"])
        assert 0 < alone <= stage["seconds"] + 0.1
    assert any("clients/training.py" in entry["where"] or "backward" in entry["function"]
               for entry in profile["stages"][1]["functions"])  # fmt: skip
    assert list(profile["rounds"]["with_victim"]) == ["1", "2", "3"]
    assert sum(profile["rounds"]["with_victim"].values()) <= profile["stages"][1]["seconds"]
    attacked = [
        inversion for inversion in profile["inversions"] if inversion["attack"]
    ]  # the others test the evaluators
    assert {inversion["attack"] for inversion in attacked} == {"gmi"}
    assert {inversion["steps"] for inversion in attacked} == {3}
    attacker = profile["roles"]["attacker"]
    assert attacker["processes"] == 2  # trained the prior, inverted
    assert attacker["seconds"] >= sum(inversion["seconds"] for inversion in profile["inversions"])
    assert sum(entry["own_seconds"] for entry in attacker["functions"]) <= attacker["seconds"] + 0.1
    assert profile["roles"]["clients"] == {"processes": 0, "seconds": 0, "functions": []}  # they are this process
    assert not (run.path / "profile").exists()
    output = capsys.readouterr().out
    assert "Where the time went" in output
    assert "attacker, in 2 processes" in output
    reckoned = needed(experiment)
    held = {
        "checkpoints": used(run.files.server.federation("with_victim")),
        "captures": used(run.files.attacker.spool("with_victim")),
        "reconstructions": used(run.files.attacker.inversions),
    }
    for what, size in held.items():
        assert 0.4 * size < reckoned[what] < 2.5 * size, (what, size, reckoned[what])


def test_it_looks_into_the_actors_of_the_clients(tiny: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "KEPT", 10**6)  # one tiny round is mostly imports
    honest: dict[str, Any] = {"attacks": None, "population": {"malicious": 0}, "federation": {"rounds": 1}}
    experiment = tiny(engine={"kind": "ray", "actors": 2}, **honest)
    run = Run(run_all(experiment, resume=False, profile=True).parent)
    content = read_json(run.files.profile)
    clients, federate = content["roles"]["clients"], content["stages"][1]
    assert clients["processes"] == 2
    assert any("clients/training.py" in entry["where"] for entry in clients["functions"])
    assert 0 < clients["seconds"] <= 2 * federate["seconds"]
    assert sum(entry["own_seconds"] for entry in clients["functions"]) <= clients["seconds"] + 0.1


def test_rows_of_processes_add_up(tmp_path: Path) -> None:
    for number in (3, 4):
        with profiled(tmp_path, "clients"):
            for _ in range(number):
                len(Path("x").parts)
    with pytest.raises(StageError), profiled(tmp_path, "clients"):
        raise StageError("still written")
    left = [read_json(path) for path in tmp_path.iterdir()]
    assert len(left) == 3
    (parts,) = (row for row in added(left) if row["function"] == "parts")
    assert parts["calls"] == 7
    one = hottest(added(left), 1)
    assert one[0]["own_seconds"] == round(max(row["own_seconds"] for row in added(left)), 3)


def test_without_it_only_the_stages_are_timed(tiny: Load) -> None:
    run = Run(run_all(tiny(attacks=None, population={"malicious": 0}), resume=False).parent)
    assert not (run.files.profile).exists()
    times = read_json(run.files.times)
    assert set(times) == {"prepare", "federate", "report"}
    run_all(tiny(attacks=None, population={"malicious": 0}), resume=True)
    assert read_json(run.files.times)["federate"] >= times["federate"]  # the others are done anew: their last time


def test_the_time_of_a_stage_that_was_stopped_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 5.0, 10.0, 12.0])
    monkeypatch.setattr("pipeline.profile.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr("pipeline.profile.event", lambda *_, **__: None)
    with pytest.raises(KeyboardInterrupt), profile.Stages(tmp_path, profile=False).stage("invert"):
        raise KeyboardInterrupt
    with profile.Stages(tmp_path, profile=False).stage("invert"):
        pass
    assert read_json(tmp_path / "times.json") == {"invert": 7.0}
