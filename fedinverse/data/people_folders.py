"""A directory per person: the layout LFW and FaceScrub come in."""

from collections import Counter
from pathlib import Path

import numpy as np

from fedinverse.data.identities import Album
from fedinverse.data.pictures import Crop, Listing, listing_of, said
from fedinverse.data.source import Request, source_of
from fedinverse.errors import DataError
from fedinverse.folders import readable, spelling


def album_of(request: Request, folders: tuple[str, ...], crop: Crop, licence: str) -> Album:
    """List the pictures under the first of ``folders`` that the root has (else the root itself).

    The person is the directory a picture lies in (the one above when that is called ``face``), by its ``spelling``.

    Raises:
        DataError: no root, or no picture in a person's directory.
    """
    root = Path(request.root)
    base = next((root / name for name in folders if (root / name).is_dir()), root)
    listing = listing_of(base) if request.root else Listing([], Counter())
    paths = [path for path in listing.pictures if path.parent != base]
    if not paths:
        raise DataError(
            f"{request.source}: no person's directory with pictures {request.place}; {source_of(request.source).obtain}"
        )
    owners = (path.parent.parent if path.parent.name.lower() == "face" else path.parent for path in paths)
    people = np.array([spelling(readable(owner.name)) for owner in owners])
    loose = len(listing.pictures) - len(paths)
    left_out = ((f"{loose} pictures in no person's directory",) if loose else ()) + said(listing.others)
    return Album(paths, people, crop, licence, f"{base}, {len(paths)} pictures", left_out)
