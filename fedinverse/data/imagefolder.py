"""Any pictures, sorted into one directory per class: torchvision's ImageFolder layout."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedinverse.data.pictures import SUFFIXES, Listing, decode, listing_of, said, whole
from fedinverse.data.source import Images, Request, register, sample
from fedinverse.errors import DataError
from fedinverse.folders import readable

OBTAIN = "set the root to a directory that holds one directory of pictures per class"


@register("imagefolder", 3, OBTAIN)
def load(request: Request) -> Images:
    """Return the pictures below the root, class = first directory; of each its largest centred square."""
    root = Path(request.root)
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if request.root and root.is_dir() else []
    listings = {folder.name: listing_of(folder) for folder in folders if not folder.name.startswith(".")}
    names = tuple(name for name, listing in listings.items() if listing.pictures)
    if not names:
        where = f"'{request.root}' holds no directory with pictures" if request.root else "no root is set"
        raise DataError(f"imagefolder: {where}; {OBTAIN}")
    paths = [path for name in names for path in listings[name].pictures]
    labels = np.repeat(np.arange(len(names)), [len(listings[name].pictures) for name in names])
    rows = sample(len(paths), request.limit, request.seed)
    images = decode([paths[row] for row in rows], request, whole)
    spelled = tuple(map(readable, names))
    if len(set(spelled)) < len(spelled):
        raise DataError(f"imagefolder: {root} holds two directories whose names read the same; rename one")
    licence, origin = "that of the pictures' owner", f"{root}, {len(paths)} pictures"
    return Images(images, labels[rows], spelled, licence, origin, _left_out(root, listings))


def _left_out(root: Path, listings: Mapping[str, Listing]) -> tuple[str, ...]:
    empty = [readable(name) for name, listing in listings.items() if not listing.pictures]
    others = sum((listing.others for listing in listings.values()), Counter[str]())
    without = (f"{len(empty)} directories without a picture ({', '.join(empty[:5])})",) if empty else ()
    loose = sum(path.suffix.lower() in SUFFIXES for path in root.iterdir())
    beside = (f"{loose} pictures in no directory",) if loose else ()
    return (*without, *beside, *said(others))
