"""How pages are filled: text is escaped, and a figure that is missing is an error, not an empty place."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape


def filled(page: Path, filters: Mapping[str, Callable[..., object]] | None = None, **values: Any) -> str:
    """Return the template ``page`` as one HTML text, with ``values`` and the style and script beside it."""
    environment = Environment(
        loader=FileSystemLoader(page.parent),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters or {})
    parts = {"style": page.with_suffix(".css"), "script": page.with_suffix(".js")}
    beside = {name: file.read_text(encoding="utf-8") for name, file in parts.items() if file.exists()}
    return environment.get_template(page.name).render(**beside, **values)


def inline_json(value: object) -> str:
    """Return ``value`` as JSON that cannot close the script element around it."""
    return json.dumps(value).replace("<", "\\u003c")
