"""Fashion-MNIST from Debian's ``dataset-fashion-mnist`` package or a torchvision root."""

from pathlib import Path

from fedinverse.data.idx import read_splits
from fedinverse.data.source import Images, Request, fit_gray, register
from fedinverse.errors import DataError

GARMENTS = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@register(
    "fmnist",
    1,
    "apt-get install dataset-fashion-mnist, or set the root to torchvision's FashionMNIST directory",
)
def load(request: Request) -> Images:
    """Return the 70,000 garments of Debian's package, or of ``root``."""
    root = Path(request.root) if request.root else DEBIAN
    folders = [root, root / "raw", root / "FashionMNIST" / "raw"]
    both = read_splits(folders, ("train", "t10k"))
    if both is None:
        raise DataError(
            f"fmnist: no train-images-idx3-ubyte(.gz) under {root}. "
            "Run 'apt-get install dataset-fashion-mnist' or give a root with torchvision's FashionMNIST/raw"
        )
    images, labels, _ = both
    return Images(fit_gray(images, request), labels, GARMENTS, "MIT (Zalando)", str(root))
