"""--profile: where the time went, by stage, round, inversion and function; and whether the disk was reckoned right."""

from collections.abc import Callable
from typing import Any

import pytest

from fedinverse.disk import used
from fedinverse.run import Run
from fedinverse.storage import read_json
from pipeline.disk import needed
from pipeline.stages import run_all

Load = Callable[..., Any]


def test_a_profile_adds_up_and_names_functions_rounds_and_inversions(
    tiny: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = tiny(attacker={"processes": 1})
    run = Run(run_all(experiment, resume=False, profile=True).parent)
    found = read_json(run.path / "profile.json")
    assert [stage["stage"] for stage in found["stages"]] == ["prepare", "federate", "invert", "audit", "report"]
    for stage in found["stages"]:
        own = sum(entry["own_seconds"] for entry in stage["functions"])
        assert 0 < own <= stage["seconds"] + 0.1
    assert any("clients/training.py" in entry["where"] or "backward" in entry["function"]
               for entry in found["stages"][1]["functions"])  # fmt: skip
    assert list(found["rounds"]["with_victim"]) == ["1", "2", "3"]
    assert sum(found["rounds"]["with_victim"].values()) <= found["stages"][1]["seconds"]
    assert {made["attack"] for made in found["inversions"]} == {"gmi"}
    assert {made["steps"] for made in found["inversions"]} == {3}
    assert "Where the time went" in capsys.readouterr().out
    reckoned = needed(experiment)
    held = {
        "checkpoints": used(run.federation("with_victim")),
        "captures": used(run.spool("with_victim")),
        "reconstructions": used(run.inversions),
    }
    for what, size in held.items():
        assert 0.4 * size < reckoned[what] < 2.5 * size, (what, size, reckoned[what])


def test_without_it_only_the_stages_are_timed(tiny: Load) -> None:
    run = Run(run_all(tiny(attacks=None, population={"malicious": 0}), resume=False).parent)
    assert not (run.path / "profile.json").exists()
    times = read_json(run.path / "times.json")
    assert set(times) == {"prepare", "federate", "report"}
    run_all(tiny(attacks=None, population={"malicious": 0}), resume=True)
    assert all(read_json(run.path / "times.json")[stage] >= seconds for stage, seconds in times.items())
