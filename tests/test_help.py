"""What the program says of itself: every argument explained, every example on its line, no bracket swallowed."""

import re
from collections.abc import Iterator

import click
import pytest
import typer
from rich.text import Text
from typer.testing import CliRunner

from pipeline.cli.main import app

PROGRAM = typer.main.get_command(app)


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


@pytest.mark.parametrize(("words", "command"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_in_80_columns_examples_keep_their_lines_and_no_word_is_cut(words: str, command: click.Command) -> None:
    text = help_of(words, width=80)
    lines = [squeezed(line) for line in text.splitlines()]
    assert "…" not in text
    for line in (command.epilog or "").split("\n\n"):
        assert squeezed(Text.from_markup(line).plain) in lines


@pytest.mark.parametrize(
    ("words", "command"), [("", PROGRAM), *commands()], ids=lambda value: value if isinstance(value, str) else ""
)
def test_in_40_columns_every_line_fits_and_no_word_is_cut(words: str, command: click.Command) -> None:
    text = help_of(words, width=40)
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= 40
    for name in [option for parameter in command.params for option in parameter.opts if option.startswith("--")]:
        assert name in text.split() or f"{name}," in text.split()


def test_brackets_and_line_ends_of_examples_are_printed_as_they_are_typed() -> None:
    assert "[[sweep.variants.bido.cohorts]]" in help_of("sweep")
    assert "--public others \\\n" in re.sub(r" +\n", "\n", help_of("audit-model"))


def test_completion_is_offered() -> None:
    assert "--install-completion" in help_of("")
