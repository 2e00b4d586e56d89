"""The documentation: the site builds without a warning, every command in it exists, every door leads somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer

from pipeline.cli.main import app

ROOT = Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
PROGRAM = typer.main.get_command(app)


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    api = (tmp_path / "site" / "api" / "index.html").read_text()
    for name in ("audit_model", "Captured", "read_verdict", "Attack", "Defence", "Registry"):
        assert name in api


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_a_page_names_exists_with_its_options(page: Path) -> None:
    text = page.read_text()
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.S | re.M) + re.findall(r"`(fedinverse [^`]+)`", text)
    lines = [line.strip() for block in blocks for line in re.sub(r"\\\n", " ", block).splitlines()]
    for line in lines:
        if re.match(r"fedinverse [a-z]", line):
            _exists(re.split(r"\s+#|[;…|]| — ", line)[0].replace("[", " ").replace("]", " "), page)


def _exists(line: str, page: Path) -> None:
    words = shlex.split(line.replace("'", "").replace('"', ""))[1:]
    command: click.Command = PROGRAM
    while isinstance(command, click.Group) and words:
        name = words.pop(0).rstrip(",")
        if name.startswith("-") or name not in command.commands:
            break
        command = command.commands[name]
    else:
        name = ""
    known = {option for parameter in command.params for option in parameter.opts} | {"-h", "--help"}
    if isinstance(command, click.Group):
        assert not name or name in known or name in command.commands, f"{page.name}: no command in '{line}'"
    for word in words:
        if word.startswith("--"):
            assert word.split("=")[0] in known, f"{page.name}: '{line}' has no option {word}"


def test_the_doors_lead_somewhere() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    targets = re.findall(r"\]\(([^)#]+\.md)\)", index)
    assert len(set(targets)) > 10
    for target in targets:
        if not target.startswith("http"):
            assert (ROOT / "docs" / target).is_file(), target
