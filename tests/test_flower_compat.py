"""What is used of Flower beyond its public interface stands in one module, and is there in the installed version."""

import re
import tomllib
from pathlib import Path

import pytest

from fedinverse import flower_compat

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("fedinverse", "server", "clients", "strategies", "attacker", "auditor", "report", "pipeline")
PUBLIC = r"flwr\.(app|clientapp|clientapp\.mod|serverapp|serverapp\.strategy)"


def test_nothing_else_reaches_into_flower() -> None:
    reaches = []
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for line in path.read_text().splitlines():
                if re.match(r"\s*(from|import) flwr\b", line) and not re.match(rf"\s*from {PUBLIC} import ", line):
                    reaches.append(f"{path.relative_to(ROOT)}: {line.strip()}")
    assert not reaches


@pytest.mark.parametrize("name", sorted(flower_compat._HOMES))
def test_every_name_is_there(name: str) -> None:
    assert getattr(flower_compat, name) is not None


def test_versions_are_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    app = project["tool"]["flwr"]["app"]
    assert app["fab-format-version"] == 1
    assert "flwr[simulation]>=1.39,<1.42" in project["project"]["dependencies"]
    assert f"flwr=={app['flwr-version-target']}" in (ROOT / "constraints.txt").read_text()
