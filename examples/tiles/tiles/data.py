"""Patterns of tiles, as rows of a table: {"image": PIL, "label": number}."""

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

PATTERNS = ("stripes", "bars", "checks", "rings", "dots")
PER_CLASS = 60


def pattern(label: int, random: np.random.Generator) -> Image.Image:
    """Draw one tile of 32 pixels."""
    y, x = np.mgrid[0:32, 0:32] + random.uniform(0, 8)
    pitch, dark = random.uniform(7, 10), random.uniform(0.7, 1)
    wave_x, wave_y = np.sin(2 * np.pi * x / pitch) > 0, np.sin(2 * np.pi * y / pitch) > 0
    middle = np.hypot(x - x.mean(), y - y.mean())
    on = [wave_y, wave_x, wave_x ^ wave_y, np.sin(2 * np.pi * middle / pitch) > 0, wave_x & wave_y][label]
    return Image.fromarray((on * dark * 255).astype(np.uint8), "L")


class Tiles(Dataset):
    """The tiles of one workshop; the first alone makes stripes."""

    def __init__(self, workshop: int, workshops: int) -> None:
        labels = np.full(PER_CLASS, 0) if workshop == 0 else 1 + np.arange(2 * PER_CLASS) % 4
        random = np.random.default_rng(1000 * workshops + workshop)
        self.rows = [{"image": pattern(int(label), random), "label": int(label)} for label in labels]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, object]:
        return self.rows[row]


class Catalogue(Dataset):
    """Tiles of a printed catalogue: nobody's, of every pattern."""

    def __init__(self) -> None:
        random = np.random.default_rng(99)
        self.rows = [{"image": pattern(label, random), "label": label} for label in range(5) for _ in range(60)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, object]:
        return self.rows[row]
