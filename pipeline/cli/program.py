"""Commands whose help is printed as it is written: brackets stay, lines of examples stay, paragraphs flow."""

import re
import shutil
from collections.abc import Callable
from typing import Any

import click
import typer
from rich.markup import escape
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

NARROW = 72  # columns; in a narrower terminal typer's tables cut words


class Command(TyperCommand):
    """A command with a help text of paragraphs and an epilog of lines; in both, ``**bold**`` is the only markup."""

    def __init__(self, *arguments: Any, help: str | None = None, epilog: str | None = None, **more: Any) -> None:
        super().__init__(
            *arguments,
            help=flowing(help) if help else None,
            epilog=line_by_line(epilog) if epilog else None,
            **more,
        )
        for parameter in self.params:
            text = getattr(parameter, "help", None)
            if text:
                parameter.help = escape(text)  # type: ignore[attr-defined]
            if parameter.type.name.startswith(("integer", "float")) and isinstance(parameter, click.Option):
                parameter.metavar = parameter.metavar or "N"  # "INTEGER RANGE" leaves no room for the explanation

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print the help as tables, or as paragraphs where the terminal is too narrow for tables."""
        if not narrow_help(self, ctx, formatter):
            super().format_help(ctx, formatter)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an interruption leaves as ``StoppedError``, since typer would end without a word."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            raise StoppedError(str(stopped) or "stopped; what was finished is kept") from None


class Group(TyperGroup):
    """A group of commands."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print the help as tables, or as paragraphs where the terminal is too narrow for tables."""
        if not narrow_help(self, ctx, formatter):
            super().format_help(ctx, formatter)


class StoppedError(Exception):
    """The operator pressed Ctrl-C; says what was kept."""


class Program(typer.Typer):
    """A typer application of such commands."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            **{
                "cls": Group,
                "no_args_is_help": True,
                "add_completion": False,
                "rich_markup_mode": "rich",
                "pretty_exceptions_enable": False,
                "context_settings": {"help_option_names": ["-h", "--help"]},
                **settings,
            }
        )

    def command(  # type: ignore[override]
        self, name: str | None = None, **settings: Any
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register a function as a command."""
        return super().command(name, **{"cls": Command, **settings})


def narrow_help(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> bool:
    """Write the help with every explanation below its name, and return True; in a wide terminal, return False."""
    columns = shutil.get_terminal_size().columns
    if columns >= NARROW:
        return False
    formatter.width = max(20, columns - 1)  # click would not go below 50, and below 10 it cannot wrap
    command.format_usage(context, formatter)
    for paragraph in (command.help or "").split("\n\n"):
        formatter.write_paragraph()
        formatter.write_text(_plain(paragraph))
    records = [each.get_help_record(context) for each in command.get_params(context)]
    sections = {"Arguments and options": [record for record in records if record]}
    if isinstance(command, click.Group):
        sections["Commands"] = [(name, each.get_short_help_str(200)) for name, each in command.commands.items()]
    for title, rows in sections.items():
        with formatter.section(title):
            formatter.write_dl([(name, _plain(text)) for name, text in rows], col_max=4)
    for number, line in enumerate(_plain(command.epilog or "").split("\n\n")):
        if not number:
            formatter.write_paragraph()
        formatter.write_text(line)
    return True


def _plain(text: str) -> str:
    return Text.from_markup(text).plain


def flowing(text: str) -> str:
    """Return ``text`` with every paragraph on one line."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(_bold(" ".join(paragraph.split())) for paragraph in paragraphs)


def line_by_line(text: str) -> str:
    """Return ``text`` as an epilog of which typer keeps every line: it joins lines and keeps paragraphs."""
    return "\n\n".join(_bold(line) for line in text.strip().splitlines())


def _bold(text: str) -> str:
    words = text.rstrip("\\")  # rich doubles a backslash at the end
    return re.sub(r"\*\*(.+?)\*\*", r"[b]\1[/b]", escape(words)) + text[len(words) :]
