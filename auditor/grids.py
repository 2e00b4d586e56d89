"""Pictures: each class's reconstructions beside the private image nearest to them."""

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from auditor.bench import Bench
from auditor.evaluators.evaluator import Judge
from auditor.evidence import Exhibit
from fedinverse.data.source import unit
from fedinverse.layout import AuditorFiles
from fedinverse.shard import Shard
from fedinverse.storage import atomic_write

GRID_IMAGES = 8
GRID_CLASSES = 200  # rows of a grid: a sheet of more is looked at by nobody


def best_first(exhibit: Exhibit, label: int, count: int) -> Tensor:
    """Return the ``count`` reconstructions of ``label`` the attacker would keep: highest target confidence first."""
    rows = (exhibit.labels == label).nonzero().flatten()
    order = exhibit.confidence[rows].argsort(descending=True, stable=True)
    return exhibit.images[rows[order[:count]]]


def nearest(images: Tensor, label: int, among: Shard, seen: Tensor, judge: Judge) -> Tensor:
    """Return, for each of ``images``, the image of class ``label`` in ``among`` nearest in E1's features (``seen``)."""
    of_class = among.labels == label
    distance = torch.cdist(judge.features(images), seen[of_class])
    return unit(among.images[of_class][distance.argmin(1)])


def row_of(
    exhibit: Exhibit, label: int, private: Shard, seen: Tensor, judge: Judge, count: int
) -> tuple[Tensor, Tensor]:
    """Return (reconstructions, nearest private images) of ``label``, ``count`` each; ``seen``: these' features."""
    images = best_first(exhibit, label, count)
    return images, nearest(images, label, private, seen, judge)


def with_grids(
    exhibits: Iterable[Exhibit], bench: Bench, files: AuditorFiles, victims: Sequence[int], caption: str
) -> Iterator[Exhibit]:
    """Yield ``exhibits`` as they are, after drawing a grid of each: its images beside the nearest of the victim's."""
    for exhibit in exhibits:
        if exhibit.arm != "CEIL":
            path = files.grid(exhibit.attack, exhibit.arm, exhibit.round, exhibit.world)
            draw_grid(path, exhibit, bench, victims, caption)
        yield exhibit


def draw_grid(path: Path, exhibit: Exhibit, bench: Bench, victims: Sequence[int], caption: str) -> None:
    """Write a grid: images of ``victims``, ``GRID_CLASSES`` at most, beside the nearest training images.

    A class of which the victim alone holds no image has no row.
    """
    both = set(exhibit.labels.tolist()) & set(bench.train.labels.tolist())
    labels = [label for label in victims if label in both][:GRID_CLASSES]
    rows = [row_of(exhibit, label, bench.train, bench.train_seen, bench.judge, GRID_IMAGES) for label in labels]
    if rows:
        save_grid(path, rows, caption=caption)


_STRIP = 16  # pixels that a caption takes


def png(images: Tensor, zoom: int = 2, caption: str = "") -> bytes:
    """Return images [N, C, H, W] in [0, 1] side by side as one PNG, enlarged without smoothing.

    A ``caption`` stands above them, in dark letters on white.
    """
    strip = torch.cat(list(images), 2).mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    picture = Image.fromarray(strip.squeeze(2) if strip.shape[2] == 1 else strip)
    picture = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)
    if caption:
        picture = _captioned(picture, caption)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")  # "optimize" takes ten times as long for one per cent of the size
    return buffer.getvalue()


def _captioned(picture: Image.Image, caption: str) -> Image.Image:
    length = int(ImageDraw.Draw(picture).textlength(caption)) + 4
    canvas = Image.new(picture.mode, (max(picture.width, length), picture.height + _STRIP), "white")
    canvas.paste(picture, (0, _STRIP))
    ImageDraw.Draw(canvas).text((2, 2), caption, fill="black")
    return canvas


def save_grid(path: Path, rows: list[tuple[Tensor, Tensor]], zoom: int = 3, caption: str = "") -> None:
    """Write a grid: one row per class, reconstructions left, a gap, their nearest private images right."""
    lines = []
    for reconstructed, real in rows:
        gap = torch.ones(1, reconstructed.shape[1], reconstructed.shape[2], reconstructed.shape[3] // 4)
        lines.append(torch.cat([torch.cat(list(reconstructed), 2), gap[0], torch.cat(list(real), 2)], 2))
    sheet = torch.cat(lines, 1)[None]
    atomic_write(path, png(sheet, zoom, caption))
