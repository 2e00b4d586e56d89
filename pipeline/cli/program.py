"""Commands whose help is printed as it is written: brackets stay, lines of examples stay, paragraphs flow."""

import re
from collections.abc import Callable
from typing import Any

import click
import typer
from rich.markup import escape
from typer.core import TyperCommand


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

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an interruption leaves as ``StoppedError``, since typer would end without a word."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            raise StoppedError(str(stopped) or "stopped; what was finished is kept") from None


class StoppedError(Exception):
    """The operator pressed Ctrl-C; says what was kept."""


class Program(typer.Typer):
    """A typer application of such commands."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            **{
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


def flowing(text: str) -> str:
    """Return ``text`` with every paragraph on one line."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(_bold(" ".join(paragraph.split())) for paragraph in paragraphs)


def line_by_line(text: str) -> str:
    """Return ``text`` as an epilog of which typer keeps every line: it joins lines and keeps paragraphs."""
    return "\n\n".join(_bold(line) for line in text.strip().splitlines())


def _bold(text: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"[b]\1[/b]", escape(text))
