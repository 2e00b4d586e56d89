"""The disk budget: reckoned before a run, held during it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedinverse.disk import check_room, in_words, limited, size_of
from fedinverse.errors import ConfigError, StageError
from fedinverse.run import Run
from pipeline import disk
from pipeline.stages import run_all

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


def test_the_limit_ends_with_its_block(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 900)
    with limited(tmp_path, 1000):
        check_room(tmp_path, 100)
        with pytest.raises(StageError, match=r"900 B.*101 B.*1 KB"):
            check_room(tmp_path, 101)
    check_room(tmp_path, 10**9)
