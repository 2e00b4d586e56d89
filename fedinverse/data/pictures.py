"""Picture files to pixels: centre crop, resize, RGB. What every source of photographs does."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedinverse.data.source import Request
from fedinverse.errors import ConfigError, DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".webp"})
Crop = Callable[[Path, int, int], int]  # (file, width, height) -> side of the centred square that is kept


def whole(_path: Path, width: int, height: int) -> int:
    """Keep the largest centred square."""
    return min(width, height)


def share(part: float) -> Crop:
    """Return a crop that keeps the centred square of ``part`` times the shorter side."""
    return lambda _path, width, height: round(min(width, height) * part)


def pictures_under(folder: Path) -> list[Path]:
    """Return every picture file below ``folder``, sorted by path, without hidden files and directories."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


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
            picture = file.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable picture ({error}); obtain it again or delete it") from error
    side = crop(path, picture.width, picture.height)
    if side > min(picture.size) or side < 1:
        raise DataError(f"{path}: {picture.width}x{picture.height} pixels, smaller than the crop of {side}")
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    return np.asarray(square.resize(size, Image.Resampling.BILINEAR))
