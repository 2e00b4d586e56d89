"""CIFAR-10 (Krizhevsky 2009) from its binary version; the Python version is pickle, never read here."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedinverse.data.source import Images, Request, register, resized
from fedinverse.errors import ConfigError, DataError

THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
RECORDS = 10_000  # in every file: a label byte, then 32x32 red, green and blue
_BYTES = 1 + 3 * 32 * 32
OBTAIN = (
    "download https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz, unpack it, and set the root to the "
    "directory with cifar-10-batches-bin/ (torchvision's cifar-10-batches-py is pickle and is not read)"
)


@register("cifar10", 3, OBTAIN)
def load(request: Request) -> Images:
    """Return the 60,000 images, resized (bilinear) where the model takes another size than 32x32."""
    root = Path(request.root)
    folder = next((path for path in (root, root / "cifar-10-batches-bin") if (path / FILES[0]).is_file()), None)
    if not request.root or folder is None:
        raise DataError(f"cifar10: no data_batch_1.bin {request.place}; {OBTAIN}")
    parts = [_read(folder / name) for name in FILES]
    images = np.concatenate([images for images, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    licence = "no licence stated; cite Krizhevsky (2009)"
    return Images(_sized(images, request), labels, THINGS, licence, str(folder))


def _read(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    size = path.stat().st_size if path.is_file() else 0
    if size != RECORDS * _BYTES:
        raise DataError(f"{path}: {size} bytes where {RECORDS * _BYTES} were expected; {OBTAIN}")
    records = np.fromfile(path, np.uint8).reshape(RECORDS, _BYTES)
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= len(THINGS):
        raise DataError(f"{path}: label {labels.max()} is not one of 0 to 9; {OBTAIN}")
    return records[:, 1:].reshape(-1, 3, 32, 32), labels


def _sized(images: NDArray[np.uint8], request: Request) -> NDArray[np.uint8]:
    channels, height, width = request.shape
    if channels != 3:
        raise ConfigError(
            f"source 'cifar10' holds 3x32x32 images; the model takes {channels}x{height}x{width}. "
            "Choose a model for RGB images (resnet18_32, resnet18, vgg16) or another source"
        )
    return images if (height, width) == (32, 32) else resized(images, (height, width))
