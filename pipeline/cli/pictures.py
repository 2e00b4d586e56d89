"""What a command line shows of images: their shape as text, a sheet as PNG, and an inversion as picture and line."""

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import torch
from rich.markup import escape
from torch import Tensor

from attacker.inversion import Inversion
from attacker.target import Target
from auditor.grids import png
from fedinverse.errors import ConfigError
from fedinverse.layout import PRIOR_ONLY
from fedinverse.storage import atomic_write
from report.text import percent

ROWS, COLUMNS = 100, 12  # of a sheet, at most: a thousand identities are no picture any more
_SHAPE = re.compile(r"(\d+)x(\d+)x(\d+)")


def shape_of(text: str) -> tuple[int, int, int]:
    """Return ``"3x64x64"`` as (channels, height, width); ``ConfigError`` for what reads otherwise."""
    match = _SHAPE.fullmatch(text)
    if match is None or "0" in match.groups():
        raise ConfigError(f"shape '{text}' is not CHANNELSxHEIGHTxWIDTH; write it like 1x32x32 or 3x64x64")
    channels, height, width = map(int, match.groups())
    return channels, height, width


def shape_text(shape: Sequence[int]) -> str:
    """Return (3, 64, 64) as ``"3x64x64"``."""
    return "x".join(map(str, shape))


def save_sheet(path: Path, rows: Sequence[Tensor], zoom: int = 2, caption: str = "") -> None:
    """Write the first ``ROWS`` of ``rows``, each images [n, C, H, W] in [0, 1], the first ``COLUMNS`` of each.

    A row with fewer images than the longest ends in white. A ``caption`` stands above the images.
    """
    cropped = [row[:COLUMNS] for row in rows[:ROWS]]
    longest = max(map(len, cropped))
    full = [torch.cat([row, torch.ones(longest - len(row), *row.shape[1:])]) for row in cropped]
    sheet = torch.cat([torch.cat(list(row), 2) for row in full], 1)
    atomic_write(path, png(sheet[None], zoom, caption))


PICTURE = "reconstructions.png"
HEADER = ["target", "images", "confidence", "prior alone", "Vendi", "failed", "seconds"]


def name_of(target: Target, path: Path) -> str:
    """Return what to call a target on the console: its round, or its file where it has none."""
    return f"round {target.round}" if target.round >= 0 else escape(path.name)


def draw(inversion: Inversion) -> None:
    """Write the picture: a row per class, highest confidence first, as an attacker would look at them."""
    reconstructions = inversion.load()
    rows = []
    for label in reconstructions.labels.unique():
        of_class = (reconstructions.labels == label).nonzero().flatten()
        surest = reconstructions.confidence[of_class].argsort(descending=True, stable=True)
        rows.append(reconstructions.images[of_class[surest]])
    shared = inversion.about.shared_classes
    save_sheet(inversion.path / PICTURE, rows, caption=f"overlap: {', '.join(shared)}" if shared else "")


def overlap_mark(shared: Sequence[str]) -> str:
    """Return what is said of public images that show the classes ``shared``."""
    return f"Overlap: the public images show the classes {', '.join(shared)} too; what came out could be theirs."


def line_of(name: str, inversion: Inversion) -> list[str]:
    """Return the line of ``HEADER`` for an inversion; means are over the reconstructions that did not fail.

    The Vendi score (effective number of different images, on the target's features) is the mean over classes.
    """
    diversity = [measured.vendi for measured in inversion.about.diversity.values()]
    reconstructions, plain = inversion.load(), inversion.load(PRIOR_ONLY)
    kept = reconstructions.confidence[~reconstructions.failed]
    return [
        name,
        str(len(reconstructions.labels)),
        percent(float(kept.mean()) if len(kept) else None),
        percent(float(plain.confidence.mean())),
        f"{mean(diversity):.1f}" if diversity else "–",
        str(int(reconstructions.failed.sum())),
        f"{reconstructions.cost.seconds:.1f}",
    ]
