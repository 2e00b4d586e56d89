"""Picture files to pixels: centre crop, resize, RGB. What every source of photographs does."""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedinverse.data.source import Request
from fedinverse.errors import ConfigError, DataError
from fedinverse.folders import entries_under, is_regular

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

# Of a file with several pictures, the first is read.
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".webp"})
SUFFIXES |= {".tif", ".tiff", ".gif", ".avif"}
SHUT = "broken links, pipes, or what may not be opened"
Crop = Callable[[Path, int, int], int]  # (file, width, height) -> side of the centred square that is kept


def whole(_path: Path, width: int, height: int) -> int:
    """Keep the largest centred square."""
    return min(width, height)


def share(part: float) -> Crop:
    """Return a crop that keeps the centred square of ``part`` times the shorter side."""
    return lambda _path, width, height: round(min(width, height) * part)


@dataclass(frozen=True)
class Listing:
    """What lies below a folder.

    Attributes:
        pictures: the picture files, sorted by path; hidden ones are not among them.
        others: how many files of every other suffix there are, ``""`` for none, and how many are ``SHUT``.
    """

    pictures: list[Path]
    others: Counter[str]


def listing_of(folder: Path) -> Listing:
    """List ``folder`` and everything below it, linked folders too, without hidden files and folders."""
    pictures, others = [], Counter[str]()
    for path in entries_under(folder):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if not is_regular(path):
            others[SHUT] += 1
        elif path.suffix.lower() in SUFFIXES:
            pictures.append(path)
        else:
            others[path.suffix.lower()] += 1
    return Listing(sorted(pictures), others)


def said(others: Counter[str]) -> tuple[str, ...]:
    """Return in words which files were no pictures; nothing when there were none."""
    if not others:
        return ()
    kinds = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in others.most_common(5))
    return (f"{others.total()} files that are no pictures ({kinds})",)


def decode(paths: Sequence[Path], request: Request, crop: Crop) -> NDArray[np.uint8]:
    """Decode ``paths``: the centred square that ``crop`` keeps, resized (bilinear, anti-aliased).

    Returns:
        uint8 [N, 3, H, W].

    Raises:
        ConfigError: the request is not for RGB images.
        DataError: a file is missing, truncated or no picture, or smaller than its crop.
    """
    channels, height, width = request.shape
    if channels != 3:
        raise ConfigError(
            f"source '{request.source}' holds RGB pictures; the model takes {channels}x{height}x{width}. "
            "Choose a model for 3x64x64 (vgg16, resnet18, ir152, face_evolve) or another source"
        )
    from PIL import Image

    # Pillow refuses a picture of twice this size; at this size it warns, in its own words.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    images = np.empty((len(paths), 3, height, width), np.uint8)

    def one(row: int) -> None:
        images[row] = _read(paths[row], crop, (width, height)).transpose(2, 0, 1)

    with ThreadPoolExecutor() as workers:  # Pillow decodes and resizes outside the interpreter's lock
        list(workers.map(one, range(len(paths))))
    return images


def _read(path: Path, crop: Crop, size: tuple[int, int]) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(path) as file:
            picture = _as_rgb(file)
    except Exception as error:  # a decoder of a damaged file may raise anything
        raise DataError(f"{path}: not a readable picture ({error}); obtain it again or delete it") from error
    side = crop(path, picture.width, picture.height)
    if side > min(picture.size) or side < 1:
        raise DataError(f"{path}: {picture.width}x{picture.height} pixels, smaller than the crop of {side}")
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    return np.asarray(square.resize(size, Image.Resampling.BILINEAR))


def _as_rgb(file: "ImageFile") -> "Image":
    """Return a picture as a person sees it: upright (EXIF), 16 bits of grey scaled to 8, what is transparent white."""
    from PIL import Image, ImageOps

    picture = ImageOps.exif_transpose(file)
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture).astype(np.float32) / 257).round().astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ValueError(f"grey values of 32 bits (mode {picture.mode}) have no known white; save it with 8 or 16 bits")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")
