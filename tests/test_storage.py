"""Files that survive a kill, and files that were tampered with."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedinverse.errors import IntegrityError
from fedinverse.storage import (
    append_jsonl,
    atomic_write,
    into_module,
    load_weights,
    read_json,
    read_jsonl,
    save_weights,
    to_weights,
    weights_sha256,
)

WEIGHTS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7, dtype=np.int64)}


def test_weights_come_back_bit_identical_with_their_hash(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    sha = save_weights(path, WEIGHTS, {"model-round": 3})
    read, metadata = load_weights(path)
    assert metadata["sha256"] == sha == weights_sha256(read)
    assert metadata["model-round"] == "3"
    assert {name: (array.shape, array.dtype) for name, array in read.items()} == {
        name: (array.shape, array.dtype) for name, array in WEIGHTS.items()
    }


@pytest.mark.parametrize("change", ["name", "value", "shape", "dtype"])
def test_hash_sees_every_change(change: str) -> None:
    array = WEIGHTS["a"]
    changed = {
        "name": {"b": array, "n": WEIGHTS["n"]},
        "value": {"a": array + np.float32(1e-6), "n": WEIGHTS["n"]},
        "shape": {"a": array.reshape(3, 2), "n": WEIGHTS["n"]},
        "dtype": {"a": array.view(np.int32), "n": WEIGHTS["n"]},
    }[change]
    assert weights_sha256(changed) != weights_sha256(WEIGHTS)


@given(cut=st.integers(min_value=0, max_value=199))
def test_truncated_file_is_refused_by_name(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("cut") / "w.safetensors"
    save_weights(path, WEIGHTS)
    whole = path.read_bytes()
    path.write_bytes(whole[: min(cut, len(whole) - 1)])
    with pytest.raises(IntegrityError, match=r"w\.safetensors"):
        load_weights(path)


def test_altered_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, WEIGHTS)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(IntegrityError, match="does not match"):
        load_weights(path)


def test_nan_is_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"layer.weight": np.array([1.0, np.nan], np.float32)})
    with pytest.raises(IntegrityError, match=r"layer\.weight"):
        load_weights(path)


def test_pickle_is_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    torch.save({"a": torch.ones(2)}, path)
    with pytest.raises(IntegrityError, match="not a readable safetensors"):
        load_weights(path)


def test_weights_that_do_not_fit_are_refused_with_both_shapes() -> None:
    module = torch.nn.Linear(3, 2)
    weights = to_weights(module)
    with pytest.raises(IntegrityError, match=r"\(2, 4\).*\(2, 3\)"):
        into_module(module, weights | {"weight": np.zeros((2, 4), np.float32)}, "capture")
    with pytest.raises(IntegrityError, match="missing"):
        into_module(module, {"weight": weights["weight"]}, "capture")


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    atomic_write(path, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@given(kept=st.integers(min_value=0, max_value=25))
def test_torn_line_is_dropped_and_appending_goes_on(kept: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("torn") / "l.jsonl"
    append_jsonl(path, {"round": 1})
    torn = json.dumps({"round": 2, "x": "y" * 10})[:kept]
    with path.open("a") as file:
        file.write(torn)
    append_jsonl(path, {"round": 3})
    assert [line["round"] for line in read_jsonl(path)] == [1, 3]


def test_damaged_json_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("{")
    with pytest.raises(IntegrityError, match=r"config\.json"):
        read_json(path)
