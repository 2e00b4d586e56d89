"""A sheet of pictures as PNG, one row per class, and what a command line says of image shapes."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from auditor.grids import png
from fedinverse.errors import ConfigError
from fedinverse.storage import atomic_write

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
