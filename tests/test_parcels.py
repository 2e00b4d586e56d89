"""Objects that go to another process of this machine through shared memory."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedinverse.arrays import to_record
from pipeline.engines import parcels
from pipeline.engines.parcels import new_prefix, pack, sweep

WEIGHTS = {
    "large": np.arange(40_001, dtype=np.float32),
    "steps": np.array(7, np.int64),
    "none": np.zeros((0, 3), np.float32),
    "double": np.linspace(0, 1, 33),
}


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(parcels, "SHARED_MEMORY", tmp_path)
    return new_prefix()


def check(opened: Any) -> None:
    assert list(opened) == list(WEIGHTS)
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(opened[name].numpy(), array)
        assert opened[name].numpy().dtype == array.dtype
        assert not opened[name].numpy().flags.writeable


def test_arrays_lie_in_one_file_that_nobody_else_reads(prefix: str, tmp_path: Path) -> None:
    parcel = pack(to_record(WEIGHTS), prefix)
    (path,) = tmp_path.iterdir()
    assert str(path) == parcel.path
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(parcel.pickled) < 2000
    opened = parcel.open()
    assert not parcel.is_gone
    parcel.drop()
    parcel.drop()
    assert parcel.is_gone
    with pytest.raises(FileNotFoundError):
        parcel.open()
    assert not list(tmp_path.iterdir())
    check(opened)  # whoever has opened it keeps it
    assert all(array.numpy().ctypes.data % 64 == 0 for array in opened.values())


def test_what_is_small_or_has_no_room_goes_with_the_rest(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(pack(to_record(WEIGHTS), "").open())
    small = pack(to_record({"w": np.ones(9, np.float32)}), prefix)
    assert not small.path
    np.testing.assert_array_equal(small.open()["w"].numpy(), np.ones(9))

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    parcel = pack(to_record(WEIGHTS), prefix)
    assert not parcel.path
    assert not list(tmp_path.iterdir())
    check(parcel.open())
    parcel.drop()
    assert not parcel.is_gone


def test_a_write_in_parts_is_a_whole_one(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, view, start: pwrite(handle, view[:7000], start))
    check(pack(to_record(WEIGHTS), prefix).open())


def test_only_what_a_killed_run_left_is_removed(prefix: str, tmp_path: Path) -> None:
    gone = next(number for number in range(4_000_000, 5_000_000) if not Path("/proc", str(number)).exists())
    old, fresh = tmp_path / f"fedinverse-{gone}-a-b", tmp_path / f"fedinverse-{gone}-c-d"
    alive, other = Path(f"{prefix}-e"), tmp_path / "somebody-else"
    for path in (old, fresh, alive, other):
        path.touch()
    for path in (old, alive, other):
        os.utime(path, (0, time.time() - 4000))
    assert new_prefix() != prefix
    assert set(tmp_path.iterdir()) == {fresh, alive, other}
    sweep(prefix)
    assert set(tmp_path.iterdir()) == {fresh, other}
    sweep("")
    assert set(tmp_path.iterdir()) == {fresh, other}
