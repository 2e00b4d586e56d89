"""Where files lie: every role's view stays in its own corner of the run directory."""

import inspect
from pathlib import Path
from typing import Any

import pytest

import attacker.worker
from fedinverse.layout import AttackerFiles, AuditorFiles, RunFiles, ServerFiles, ShardFiles

ROOT = Path("runs") / "one"


def paths_of(view: Any) -> list[Path]:
    """Every path that a view gives, its methods called with a world, an attack, an arm and a round as they ask."""
    arguments = {"world": "with_victim", "server_round": 3, "attack": "gmi", "arm": "A", "key": "0f"}
    arguments |= {"question": "updates", "client": 2}
    values = []
    for name, member in inspect.getmembers(type(view)):
        if name.startswith("_"):
            continue
        value = getattr(view, name)
        if inspect.isfunction(member):
            value = value(*(arguments[parameter] for parameter in list(inspect.signature(member).parameters)[1:]))
        values += paths_of(value) if isinstance(value, ShardFiles) else [value]
    return [view.root, *values]


@pytest.mark.parametrize(
    ("view", "corner"),
    [
        (RunFiles(ROOT).server, "federation"),
        (RunFiles(ROOT).attacker, "attacker"),
        (RunFiles(ROOT).auditor, "audit"),
    ],
)
def test_a_view_gives_no_path_outside_its_corner(view: ServerFiles | AttackerFiles | AuditorFiles, corner: str) -> None:
    for path in paths_of(view):
        assert path.is_relative_to(ROOT / corner), path


def test_the_attackers_view_has_no_name_for_the_private_images_or_another_shard() -> None:
    view = RunFiles(ROOT).attacker
    for name in ("split", "pools", "config", "server", "auditor", "federation", "checkpoint", "private", "vault"):
        with pytest.raises(AttributeError):
            getattr(view, name)


def test_the_attackers_worker_can_reach_no_run() -> None:
    """What import-linter checks of the source, checked of the module as it is loaded."""
    for name in ("Run", "shard_of", "part_of", "prepare", "open_source", "make_split"):
        assert not hasattr(attacker.worker, name)


def test_no_two_files_share_a_place() -> None:
    whole = RunFiles(ROOT)
    for view in (whole, whole.server, whole.attacker, whole.auditor):
        places = [path for path in paths_of(view) if isinstance(path, Path)]
        assert len(set(places)) == len(places)


def test_a_grid_of_an_arm_that_belongs_to_no_attack_is_called_by_the_arm() -> None:
    names = [RunFiles(ROOT).auditor.grid(attack, "T1", 10).name for attack in ("", "gmi")]
    assert names == ["T1-round-0010.png", "gmi-T1-round-0010.png"]
