"""How the auditor's pages are filled: text is escaped, and a figure that is missing is an error, not an empty place."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape


def templates_in(directory: Path) -> Environment:
    """Return the templates of ``directory``."""
    return Environment(
        loader=FileSystemLoader(directory),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
