"""Objects that go to another process of this machine through shared memory."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedinverse.arrays import to_record
from pipeline.engines import parcels
from pipeline.engines.parcels import Parcel, Reader, Shelf, new_prefix, sweep
from pipeline.engines.sent_arrays import SentArrays

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


def moved(step: int) -> Any:
    return to_record({name: np.asarray(array + array.dtype.type(step)) for name, array in WEIGHTS.items()})


def check(opened: Any) -> None:
    assert list(opened) == list(WEIGHTS)
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(opened[name].numpy(), array)
        assert opened[name].numpy().dtype == array.dtype
        assert not opened[name].numpy().flags.writeable


def test_arrays_lie_in_one_file_that_nobody_else_reads(prefix: str, tmp_path: Path) -> None:
    parcel, reader = Shelf(prefix).pack(to_record(WEIGHTS)), Reader()
    (path,) = tmp_path.iterdir()
    assert str(path) == parcel.path
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(parcel.pickled) < 2000
    opened = reader.open(parcel)
    assert not parcel.is_gone
    reader.remove()
    reader.remove()
    assert parcel.is_gone
    with pytest.raises(FileNotFoundError):
        reader.open(parcel)
    assert not list(tmp_path.iterdir())
    check(opened)  # whoever has opened it keeps it
    assert all(array.numpy().ctypes.data % 64 == 0 for array in opened.values())


def test_a_file_is_written_again_when_nothing_of_it_is_in_use(prefix: str, tmp_path: Path) -> None:
    shelf, reader = Shelf(prefix), Reader()
    first = shelf.pack(to_record(WEIGHTS))
    opened = reader.open(first)
    kept = opened["large"].numpy()[7:9]
    del opened
    assert not reader.done()  # two of its values are still looked at
    shelf.take_back(reader.done())
    second = shelf.pack(to_record(WEIGHTS))
    assert second.path != first.path
    again = reader.open(first)
    del kept
    assert not reader.done()  # it was opened twice
    del again
    assert reader.done() == [first.path]
    assert not reader.done()
    shelf.take_back([first.path, "/no/such/file"])
    third = shelf.pack(moved(1))
    assert third.path == first.path
    assert third != first
    assert len(list(tmp_path.iterdir())) == 2
    check(reader.open(second))
    np.testing.assert_array_equal(reader.open(third)["large"].numpy(), WEIGHTS["large"] + 1)


def test_files_of_another_models_size_and_those_somebody_removed_are_not_written_again(
    prefix: str, tmp_path: Path
) -> None:
    shelf, reader = Shelf(prefix), Reader()
    first = shelf.pack(to_record(WEIGHTS))
    reader.open(first)
    shelf.take_back(reader.done())
    larger = {"w": np.arange(90_000, dtype=np.float64)}
    second = shelf.pack(to_record(larger))
    assert first.is_gone
    assert [str(path) for path in tmp_path.iterdir()] == [second.path]
    np.testing.assert_array_equal(reader.open(second)["w"].numpy(), larger["w"])
    assert list(reader._memory) == [second.path]  # what is gone holds no memory
    shelf.take_back(reader.done())
    Path(second.path).unlink()
    third = shelf.pack(to_record(larger))
    assert not third.is_gone
    Path(third.path).unlink()
    with pytest.raises(FileNotFoundError):
        reader.open(third)
    assert reader.done() == [third.path]  # its writer is told, and lets go of it


def test_what_is_small_or_has_no_room_goes_with_the_rest(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader()
    check(reader.open(Shelf("").pack(to_record(WEIGHTS))))
    small = Shelf(prefix).pack(to_record({"w": np.ones(9, np.float32)}))
    assert not small.path
    np.testing.assert_array_equal(reader.open(small)["w"].numpy(), np.ones(9))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    parcel = Shelf(prefix).pack(to_record(WEIGHTS))
    assert not parcel.path
    assert not list(tmp_path.iterdir())
    check(reader.open(parcel))
    assert not parcel.is_gone


def test_what_actors_are_sent_is_written_again_when_none_reads_it(prefix: str) -> None:
    sent, readers = SentArrays(prefix), [Reader(), Reader()]
    models = [moved(step) for step in range(4)]

    def read(model: int, actor: int) -> str:
        place = sent.place(models[model], actor)
        assert isinstance(place, Parcel)
        np.testing.assert_array_equal(readers[actor].open(place)["large"].numpy(), WEIGHTS["large"] + model)
        return place.path

    first = read(0, 0)
    assert read(0, 1) == first  # once for all
    sent.was_read(0, readers[0].done())
    sent.let_go(models[0])
    second = read(1, 0)
    assert second != first  # actor 1 has not said that it is done
    sent.is_lost(1)
    sent.let_go(models[1])
    assert read(2, 0) == first
    sent.was_read(0, [second, first])
    assert read(3, 0) == second  # ``first`` has been read, and is still what is sent
    assert sent.place(models[2], 0).path == first  # type: ignore[union-attr]


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
