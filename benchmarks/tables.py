"""Where the benchmarks put what they measured: a Markdown table between two markers of a document."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import torch

from fedinverse.errors import ConfigError
from fedinverse.storage import atomic_write

DOCS = Path(__file__).resolve().parent.parent / "docs"
DOCUMENT = DOCS / "attacks.md"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def spread(values: Sequence[float], scale: float = 100, digits: int = 0) -> str:
    """Return the mean and the sample standard deviation of ``values`` times ``scale``, as "84 ± 6"."""
    deviation = stdev(values) if len(values) > 1 else 0.0
    return f"{scale * mean(values):.{digits}f} ± {scale * deviation:.{digits}f}"


def measured_with(further: str = "") -> str:
    """Return the sentence that belongs below a table of times: what it was measured with."""
    return f"\nPyTorch {torch.__version__.split('+')[0]}, one thread{further}.\n"


def publish(name: str, text: str, document: Path = DOCUMENT) -> None:
    """Replace what stands between the lines ``<!-- NAME -->`` and ``<!-- /NAME -->`` of ``document`` by ``text``.

    Raises:
        ConfigError: the document lacks a marker.
    """
    opening, closing = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, begun, rest = document.read_text(encoding="utf-8").partition(opening)
    _, ended, after = rest.partition(closing)
    if not begun or not ended:
        raise ConfigError(f"{document} has no lines '{opening.strip()}' and '{closing}' to write the table between")
    atomic_write(document, f"{before}{opening}\n{text}\n{closing}{after}")
