"""FFHQ (Karras et al., CVPR 2019): 70,000 aligned faces without names. A public set only: one class."""

from collections import Counter
from pathlib import Path

import numpy as np

from fedinverse.data.pictures import Listing, decode, listing_of, said, share
from fedinverse.data.source import Images, Request, register, sample
from fedinverse.errors import DataError

CROP = 88 / 128  # of the thumbnail: the attacks' papers cut 88 pixels out of 128
FOLDERS = ("thumbnails128x128", "images1024x1024")
OBTAIN = (
    "download thumbnails128x128 (2 GB is enough) from https://github.com/NVlabs/ffhq-dataset and set the "
    "root to the directory that holds it"
)


@register("ffhq", 3, OBTAIN)
def load(request: Request) -> Images:
    """Return every face under the root, or ``limit`` by seeded choice, all of the class ``ffhq``."""
    root = Path(request.root)
    base = next((root / name for name in FOLDERS if (root / name).is_dir()), root)
    listing = listing_of(base) if request.root else Listing([], Counter())
    paths = listing.pictures
    if not paths:
        raise DataError(f"ffhq: no picture {request.place}; {OBTAIN}")
    chosen = [paths[row] for row in sample(len(paths), request.limit, request.seed)]
    images = decode(chosen, request, share(CROP))
    licence = "CC BY-NC-SA 4.0 (NVIDIA); single pictures under the licences of ffhq-dataset-v2.json"
    return Images(
        images,
        np.zeros(len(images), np.int64),
        ("ffhq",),
        licence,
        f"{base}, {len(paths)} pictures",
        said(listing.others),
    )
