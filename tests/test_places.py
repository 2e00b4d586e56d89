"""Where a command runs and writes: a place that cannot be written to, a cache beside the user, an odd terminal."""

import errno
import fcntl
import os
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest

from fedinverse.data import Request, open_source
from fedinverse.data.source import cache_directory
from fedinverse.errors import ConfigError, IntegrityError, StageError
from fedinverse.lock import only_here
from fedinverse.storage import load_array
from pipeline.cli.main import guarded


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_run_directory_that_cannot_be_is_refused_by_name(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"run directory .*/file is no directory; choose another"),
        only_here(tmp_path / place),
    ):
        pass


def test_a_place_where_nobody_may_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # as for a user who is not root
    with pytest.raises(ConfigError, match=r"this user may not write in"), only_here(tmp_path / "run"):
        pass
    monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match=r"FEDINVERSE_CACHE .*this user may not write"):
        open_source(Request("glyphs", (1, 32, 32), limit=10))


def test_a_file_system_without_locks_is_not_taken_for_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StageError, match=r"cannot be locked .No locks available"), only_here(tmp_path / "run"):
        pass


def test_a_relative_cache_is_the_same_place_for_a_process_that_starts_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDINVERSE_CACHE", "beside")
    assert cache_directory() == tmp_path / "beside"
    assert os.environ["FEDINVERSE_CACHE"] == str(tmp_path / "beside")


def test_a_directory_that_is_gone_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SystemExit) as ended:
        guarded(lambda: pytest.fail("the command ran"))
    monkeypatch.chdir(tmp_path)
    assert ended.value.code == 2
    assert "the directory you are in is gone" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "resumable"), [(["data", "list"], False), (["run", "quickstart"], True)])
def test_only_what_can_go_on_is_told_to(
    words: list[str], resumable: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "argv", ["fedinverse", *words])
    monkeypatch.setenv("COLUMNS", "0")  # a terminal that does not know its width
    with pytest.raises(SystemExit):
        guarded(full)
    said = capsys.readouterr().err
    assert "No space left" in said
    assert ("--resume" in said) is resumable


def test_a_zipped_array_is_no_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "several.npy.npz", one=np.zeros(2))
    (tmp_path / "several.npy.npz").rename(tmp_path / "several.npy")
    with pytest.raises(IntegrityError, match=r"several\.npy: holds several arrays"):
        load_array(tmp_path / "several.npy")
    with ZipFile(tmp_path / "cut.npy", "w") as file:
        file.writestr("one.npy", b"x" * 100)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:60])
    with pytest.raises(IntegrityError, match=r"cut\.npy: not a readable array"):
        load_array(tmp_path / "cut.npy")
