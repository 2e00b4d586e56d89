"""EMNIST letters (Cohen et al. 2017): 145,600 handwritten letters, upper and lower case in one class."""

import string
from pathlib import Path

from fedinverse.data.idx import read_splits
from fedinverse.data.source import Images, Request, fit_gray, register
from fedinverse.errors import DataError

# Named as the glyphs' capitals are, so that letters against glyphs is found to overlap.
LETTERS = tuple(string.ascii_uppercase)
OBTAIN = (
    "download gzip.zip from https://www.nist.gov/itl/products-and-services/emnist-dataset "
    "(or torchvision.datasets.EMNIST(root, 'letters', download=True)) and set the root to the directory with "
    "emnist-letters-train-images-idx3-ubyte(.gz), or to torchvision's root"
)


@register("emnist", 1, OBTAIN)
def load(request: Request) -> Images:
    """Return the letters under ``root``, upright (the files hold them transposed)."""
    root = Path(request.root)
    folders = [root, root / "gzip", root / "raw", root / "EMNIST" / "raw", root / "EMNIST" / "raw" / "gzip"]
    both = read_splits(folders, ("emnist-letters-train", "emnist-letters-test")) if request.root else None
    if both is None:
        raise DataError(f"emnist: no emnist-letters-train-images-idx3-ubyte(.gz) {request.place}; {OBTAIN}")
    images, labels, splits = both
    images, labels = images.swapaxes(1, 2), labels - 1  # the files count from 1
    if images.shape[1:] != (28, 28) or labels.min() < 0 or labels.max() >= len(LETTERS):
        raise DataError(f"emnist: {root} does not hold 28x28 letters with labels 1 to 26; download it again")
    licence = "public domain (NIST Special Database 19)"
    origin = f"{root} ({splits} of 2 splits)"
    return Images(fit_gray(images, request), labels, LETTERS, licence, origin)
