"""A finished run of which one file is damaged: one message, or the file is made again; never a traceback."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedinverse.errors import FedInverseError
from pipeline.cli.main import app

ROUNDS = "federation/with_victim/rounds.jsonl"


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def zeroed(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


def another_table(path: Path) -> None:
    shutil.copy(path.parent.parent / "split.parquet", path)


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def holding(key: str, value: Any) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        table = json.loads(path.read_text())
        *above, last = key.split(".")
        place = table
        for part in above:
            place = place[part]
        place[last] = value
        path.write_text(json.dumps(table))

    damage.__name__ = f"{key}={value}"
    return damage


@pytest.mark.parametrize(
    ("command", "file", "damage", "said"),
    [
        ("audit", ROUNDS, zeroed, r"rounds\.jsonl: has no line of round 2"),
        ("report", ROUNDS, emptied, r"rounds\.jsonl: has no line of round"),
        (
            "report",
            "audit/scores.parquet",
            another_table,
            r"scores\.parquet: .*no column.*'fedinverse audit' remakes it",
        ),
        ("compare", "audit/scores.parquet", zeroed, r"scores\.parquet: not a readable score table"),
        ("compare", "audit/scores.parquet", a_directory, r"scores\.parquet: is no regular file"),
        ("report", "config.json", holding("federation.privacy", [None]), r"config\.json: 'federation\.privacy'"),
        ("report", "config.json", holding("population.clients", "4"), r"config\.json: 'population\.clients'.*integer"),
        ("audit", "config.json", holding("attacks", []), r"config\.json: 'attacks'"),
    ],
)
def test_a_damaged_file_is_named(
    command: str, file: str, damage: Callable[[Path], None], said: str, attacked_run: Any, tmp_path: Path
) -> None:
    copy = tmp_path / "tiny"
    shutil.copytree(attacked_run.path, copy)
    damage(copy / file)
    result = CliRunner().invoke(
        app, [command, str(copy), *(["--out", str(tmp_path / "compared")][: 2 * (command == "compare")])]
    )
    assert isinstance(result.exception, FedInverseError), result.exception
    with pytest.raises(FedInverseError, match=said):
        raise result.exception
