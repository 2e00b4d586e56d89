"""Puts the tables of a sweep's comparison into a document, between the markers ``<!-- sweep -->``.

    fedinverse sweep defences/sweep
    python benchmarks/publish_comparison.py runs/defences/compare.md docs/defences.md "Utility" "The attack beside"

Tables are named by how their titles begin; they are taken as ``fedinverse compare`` wrote them.
"""

from pathlib import Path
from typing import Annotated

import typer
from tables import publish

from fedinverse.errors import ConfigError

MARKER = "sweep"


def main(
    comparison: Annotated[Path, typer.Argument(help="a compare.md")],
    document: Annotated[Path, typer.Argument(help="the document to write into")],
    tables: Annotated[list[str], typer.Argument(help="how the titles of the wanted tables begin")],
) -> None:
    """Publish the named tables."""
    known = sections(comparison.read_text())
    chosen = []
    for wanted in tables:
        matching = [text for title, text in known.items() if title.startswith(wanted)]
        if len(matching) != 1:
            raise ConfigError(f"'{wanted}' begins {len(matching)} titles of {comparison}; titles: {'; '.join(known)}")
        chosen += matching
    publish(MARKER, "\n\n".join(chosen), document)


def sections(text: str) -> dict[str, str]:
    """Return the tables of a ``compare.md`` by title, each with its notes."""
    texts: dict[str, str] = {}
    for part in text.split("\n**")[1:]:
        title, _, rest = part.partition("**\n")
        texts[title] = f"**{title}**\n{rest.rstrip()}"
    return texts


if __name__ == "__main__":
    typer.run(main)
