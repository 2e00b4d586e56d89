"""The documentation's command lines are taken by the programs, and those of its first door do what it says."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import TINY, merged
from test_deploy_docs import take
from typer.testing import CliRunner

from fedinverse.tables import flat
from pipeline.cli.main import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ELLIPSIS = re.compile(r"…|\.\.\.")


def commands(page: Path) -> list[str]:
    """Return the command lines of ``fedinverse`` in the fenced blocks of a page, without the comments beside them."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [re.split(r"\s{2,}| # ", line)[0] for line in lines if line.startswith("fedinverse ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_line_of_the_documentation_is_one_that_the_program_takes(page: Path) -> None:
    for line in commands(page):
        if not ELLIPSIS.search(line):
            take(shlex.split(line))


def test_the_first_door_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of "See it in five minutes", as they stand there, on little data."""
    small = merged(TINY, {"name": "quickstart"})
    settings = [f"{key}={_toml(value)}" for key, value in flat(small).items() if key != "attacks.gmi.kind"]
    options = [word for setting in settings for word in ("--set", setting)]
    monkeypatch.chdir(tmp_path)
    first, second, faces = commands(ROOT / "docs" / "index.md")
    tried = CliRunner().invoke(app, [*shlex.split(first)[1:], *options])
    assert tried.exit_code == 0, tried.output
    assert "Nothing was written" in tried.output
    assert not list(tmp_path.rglob("*"))
    done = CliRunner().invoke(app, [*shlex.split(second)[1:], *options])
    assert done.exit_code == 0, (done.output, done.exception)
    assert (tmp_path / "runs" / "quickstart" / "report.html").exists()
    assert "runs/quickstart/report.html" in done.output.replace("\n", "")
    assert shlex.split(faces)[1:] == ["run", "faces"]


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
