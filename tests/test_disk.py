"""The disk budget: reckoned before a run, held during it; keeping fewer checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedinverse.disk import Budget, in_words, size_of
from fedinverse.errors import ConfigError, StageError
from fedinverse.layout import WORLDS, World
from fedinverse.models import build
from fedinverse.rounds import Round, Thinning, kept_checkpoint
from fedinverse.run import Run, prepare
from fedinverse.storage import read_jsonl, save_weights, to_weights
from pipeline import disk
from pipeline.disk import needed
from pipeline.experiment import resolved
from pipeline.stages.all_stages import run_all
from pipeline.stages.federate import federate
from pipeline.stages.inversions import finished
from pipeline.stages.needed import InvertedRounds
from server.checkpoints import save_round

Load = Callable[..., Any]


@pytest.mark.parametrize(
    ("text", "size"), [("1 B", 1), ("1.5 KB", 1500), ("500 mb", 500_000_000), ("2 GB", 2 * 10**9), (" 1 TB ", 10**12)]
)
def test_sizes_in_words(text: str, size: int) -> None:
    assert size_of(text) == size
    assert size_of(in_words(size)) == size


@pytest.mark.parametrize("text", ["2", "two GB", "2 GiB", "-1 GB", "nan GB", "inf GB", "0 GB", "1e30 TB", "GB", "2GB"])
def test_what_is_no_size_is_refused_with_an_example(text: str, tiny: Load) -> None:
    with pytest.raises(ConfigError, match=r"storage\.disk_budget.*2 GB"):
        tiny(storage={"disk_budget": text})


def test_a_run_that_cannot_keep_its_budget_is_refused_before_anything_is_written(tiny: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"checkpoints .*captures .*storage\.disk_budget = 10 KB; raise it"):
        run_all(tiny(storage={"disk_budget": "10 KB"}), resume=False)
    assert not (tmp_path / "runs").exists()


def test_a_run_larger_than_the_disk_is_refused(tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "free", lambda path: 1000)
    with pytest.raises(ConfigError, match="has 1 KB free; make room"):
        run_all(tiny(), resume=False)
    assert not (tmp_path / "runs").exists()


def test_a_budget_passed_while_running_stops_the_run_which_goes_on_with_a_larger_one(
    tiny: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest: dict[str, Any] = {"attacks": None, "population": {"malicious": 0}}
    whole = Run(run_all(tiny(name="whole", **honest), resume=False).parent)
    monkeypatch.setattr(disk, "needed", lambda experiment: {})  # the reckoning was wrong
    with pytest.raises(StageError, match=r"would exceed storage\.disk_budget = 100 KB; raise it.*--resume"):
        run_all(tiny(name="held", storage={"disk_budget": "100 KB"}, **honest), resume=False)
    held = Run(run_all(tiny(name="held", storage={"disk_budget": "1 GB"}, **honest), resume=True).parent)
    assert held.recorded_rounds("with_victim") == whole.recorded_rounds("with_victim")


def test_a_round_without_room_is_refused_before_it_is_stored(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 900)

    def of(size: int) -> Round:
        return Round(Run(tmp_path), "with_victim", 1, {"w": np.zeros(size, np.uint8)}, "", {})

    Budget(1000)(of(100))
    with pytest.raises(StageError, match=r"900 B.*101 B.*1 KB"):
        Budget(1000)(of(101))


def names(run: Run, world: World) -> list[str]:
    return sorted(path.name for path in run.files.server.checkpoint(world, 0).parent.iterdir())


def models(*rounds: int) -> list[str]:
    return [f"round-{number:04d}.safetensors" for number in rounds]


def test_only_needed_checkpoints_are_kept_and_a_stopped_run_ends_with_the_same_hashes(
    tiny: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    common: dict[str, Any] = {
        "federation": {"rounds": 4, "strategy": "fedadam"},
        "attacker": {"rounds": [2], "processes": 1},
        "audit": {"without_victim": True},
    }
    experiment = tiny(name="whole", **common)
    whole = prepare(Path(experiment.out) / "whole", resolved(experiment))
    federate(whole, WORLDS, experiment.engine)
    assert names(whole, "with_victim") == [*models(*range(5)), "strategy-0004.safetensors"]
    thinned = tiny(name="thinned", storage={"checkpoints": "needed"}, **common)
    held: list[list[str]] = []
    for stop in (("with_victim", 3), ("without_victim", 3)):

        def stopped(over: Round, stop: tuple[str, int] = stop) -> None:
            if (over.world, over.number) == stop:
                raise StageError("stopped")
            save_round(over)

        def thinned_out(self: Thinning, over: Round) -> None:
            self.thin(over.run, over.world)
            held.append(names(over.run, over.world))

        with monkeypatch.context() as patch:
            patch.setattr("pipeline.stages.federate.save_round", stopped)
            patch.setattr(Thinning, "__call__", thinned_out)
            with pytest.raises(StageError, match="stopped"):
                run_all(thinned, resume=bool(held))
    assert max(map(len, held)) == 4  # the first, the attacked, the last, and what the strategy remembers
    left_by_a_kill = Run(Path(thinned.out) / "thinned").files.server.checkpoint("with_victim", 1)
    left_by_a_kill.touch()
    run = Run(run_all(thinned, resume=True).parent)
    for world in WORLDS:
        assert names(run, world) == [*models(0, 2, 4), "strategy-0004.safetensors"]
        assert run.recorded_rounds(world) == whole.recorded_rounds(world)
        assert hashes_sent(run, world) == hashes_sent(whole, world)
    targets = {each.target.sha256 for each in finished(run)}
    assert {whole.recorded_rounds(world)[2].sha256 for world in WORLDS} < targets
    assert (run.files.verdict).exists()
    with pytest.raises(StageError, match=r'round-0003.* was not kept: storage\.checkpoints = "needed".*round-0002'):
        kept_checkpoint(run, "with_victim", 3)
    with pytest.raises(ConfigError, match=r"no global model of round 9.*round-0002"):
        kept_checkpoint(run, "with_victim", 9)


def hashes_sent(run: Run, world: World) -> set[tuple[int, str]]:
    return {(line["round"], line["sha256"]) for line in read_jsonl(run.files.server.ledger(world))}


@pytest.mark.parametrize(
    ("schedule", "with_victim", "without_victim"),
    [
        ({"rounds": "last"}, 3, 4),
        ({"rounds": [2, 5]}, 5, 6),
        ({"rounds": "every", "every_nth": 10}, 5, 6),
        ({"rounds": "every"}, 21, 21),
        ({"rounds": "new_best"}, 3, 21),  # known only when the attacker has captured
    ],
)
def test_the_reckoning_follows_what_is_kept(
    schedule: dict[str, Any], with_victim: int, without_victim: int, tiny: Load
) -> None:
    common: dict[str, Any] = {"federation": {"rounds": 20}, "attacker": schedule, "audit": {"without_victim": True}}
    every = needed(tiny(**common))["checkpoints"]
    fewer = needed(tiny(storage={"checkpoints": "needed"}, **common))["checkpoints"]
    assert fewer * 2 * 21 == every * (with_victim + without_victim)


def test_what_an_inversion_reads_is_known_from_the_schedule_and_the_captures(tiny: Load) -> None:
    experiment = tiny(attacker={"rounds": "last"})
    run = prepare(Path(experiment.out) / "tiny", resolved(experiment))
    weights = to_weights(build("mcnn", 10, 0.1, seed=0))
    about: dict[str, str | int | float] = {"model-round": 4, "model": "mcnn", "width": 0.1, "classes": 10}
    save_weights(run.files.attacker.spool("with_victim") / "round-0004.safetensors", weights, about)
    rule = InvertedRounds(run)
    assert [number for number in range(7) if rule("with_victim", number)] == []
    assert [number for number in range(7) if rule("without_victim", number)] == [4]  # the last it was sent
