"""Images that lie as arrays in a directory: what an app's own data hook gave, and whatever else is an array."""

import hashlib
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedinverse.data.source import Images, Request, register
from fedinverse.errors import DataError
from fedinverse.layout import ShardFiles
from fedinverse.storage import load_array, read_json, save_array, write_json

OBTAIN = "set the root to a directory with images.npy (uint8 N, C, H, W), labels.npy (N) and classes.json (their names)"
NAMES = "classes.json"


@register("arrays", 0, OBTAIN)
def load(request: Request) -> Images:
    """Return the images below the root."""
    root = Path(request.root)
    files = ShardFiles(root)
    if not request.root or not files.images.exists() or not files.labels.exists():
        raise DataError(f"arrays: '{request.root}' holds no images.npy and labels.npy; {OBTAIN}")
    images, labels = load_array(files.images), load_array(files.labels)
    names = read_json(root / NAMES) if (root / NAMES).exists() else list(map(str, range(int(labels.max()) + 1)))
    if not isinstance(names, list) or (labels.size and not 0 <= labels.min() <= labels.max() < len(names)):
        raise DataError(
            f"arrays: {root / NAMES} holds {json.dumps(names)[:80]}; a list with a name per label is needed"
        )
    return Images(images, labels, tuple(map(str, names)), "that of the images' owner", str(root))


def save(below: Path, images: NDArray[np.uint8], labels: NDArray[np.int64], names: list[str]) -> Path:
    """Write a directory that ``load`` reads, named by its content, into ``below``; return it."""
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels).data)
    root = below / digest.hexdigest()[:16]
    save_array(ShardFiles(root).images, images)
    write_json(root / NAMES, names)
    save_array(ShardFiles(root).labels, labels)  # last
    return root
