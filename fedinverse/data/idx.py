"""The IDX format of MNIST and its relatives, plain or gzipped."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedinverse.errors import DataError

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes.

    Raises:
        DataError: not IDX, not unsigned bytes, or shorter or longer than its header says.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != _UNSIGNED_BYTE:
        raise DataError(f"{path}: not an IDX file of unsigned bytes")
    rank = raw[3]
    shape = struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank]) if len(raw) >= 4 + 4 * rank else ()
    body = np.frombuffer(raw, np.uint8, offset=min(len(raw), 4 + 4 * rank))
    if not shape or body.size != int(np.prod(shape)):
        raise DataError(f"{path}: holds {body.size} bytes where its header says {shape}; download it again")
    return body.reshape(shape)


def find_idx(directories: list[Path], stem: str) -> Path | None:
    """Return the first existing ``stem`` or ``stem.gz`` in ``directories``."""
    candidates = (folder / f"{stem}{ending}" for folder in directories for ending in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def read_splits(
    directories: list[Path], splits: tuple[str, str]
) -> tuple[NDArray[np.uint8], NDArray[np.int64], int] | None:
    """Return (images [N, H, W], labels [N], how many of the two splits there are) of both together, or None."""
    pairs = [pair for split in splits if (pair := read_pair(directories, split)) is not None]
    if not pairs:
        return None
    images, labels = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    return images, labels.astype(np.int64), len(pairs)


def read_pair(directories: list[Path], split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    """Return (images [N, H, W], labels [N]) of the files of ``split``, or None when they are absent."""
    images = find_idx(directories, f"{split}-images-idx3-ubyte")
    labels = find_idx(directories, f"{split}-labels-idx1-ubyte")
    if images is None or labels is None:
        return None
    pair = read_idx(images), read_idx(labels)
    if len(pair[0]) != len(pair[1]):
        raise DataError(f"{images}: {len(pair[0])} images but {len(pair[1])} labels")
    return pair
