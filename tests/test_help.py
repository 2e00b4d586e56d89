"""What the program says of itself: every argument explained, every example on its line, no bracket swallowed."""

import re
from collections.abc import Iterator

import click
import pytest
import typer
from typer.testing import CliRunner

from pipeline.cli import deploy, sweep
from pipeline.cli.main import EXAMPLES, app

PROGRAM = typer.main.get_command(app)
EPILOGS = {
    "run": EXAMPLES,
    "sweep": sweep.EXAMPLE,
    "deploy keys": deploy.KEYS_HELP,
    "deploy superlink": deploy.SUPERLINK_HELP,
    "deploy local": deploy.LOCAL_HELP,
}


def commands(group: click.Command = PROGRAM, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Yield every command with the words that call it."""
    if not isinstance(group, click.Group):
        yield " ".join(path), group
        return
    for name, command in group.commands.items():
        yield from commands(command, (*path, name))


def help_of(words: str, width: int = 100) -> str:
    """Return the help that is printed for ``words``, without the frames."""
    done = CliRunner().invoke(app, [*words.split(), "-h"], env={"COLUMNS": str(width), "TERMINAL_WIDTH": str(width)})
    assert done.exit_code == 0, done.output
    return re.sub(r"[│╭╮╰╯─]", " ", done.output)


def squeezed(text: str) -> str:
    """Return ``text`` with each run of white space as one space."""
    return " ".join(text.split())


@pytest.mark.parametrize(("words", "command"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_argument_and_option_is_explained(words: str, command: click.Command) -> None:
    text = help_of(words, width=400)
    for parameter in command.params:
        explained = getattr(parameter, "help", None)
        assert explained, f"{words}: {parameter.name} is not explained"
        assert squeezed(explained.replace("\\[", "[")) in squeezed(text)
    assert command.help
    assert squeezed(command.help.replace("\\[", "[")) in squeezed(text)


@pytest.mark.parametrize(("words", "epilog"), EPILOGS.items(), ids=lambda value: value if value in EPILOGS else "")
def test_examples_keep_their_lines_and_brackets(words: str, epilog: str) -> None:
    lines = [squeezed(line) for line in help_of(words, width=200).splitlines()]
    for line in epilog.replace("**", "").strip().splitlines():
        assert squeezed(line) in lines


def test_examples_of_the_main_command_fit_a_terminal_of_80_columns() -> None:
    lines = [squeezed(line) for line in help_of("run", width=80).splitlines()]
    for line in EXAMPLES.replace("**", "").strip().splitlines():
        assert squeezed(line) in lines


def test_completion_is_offered() -> None:
    assert "--install-completion" in help_of("")
