"""A directory per person: the layout LFW and FaceScrub come in."""

import re
from pathlib import Path

import numpy as np

from fedinverse.data.identities import Album
from fedinverse.data.pictures import Crop, pictures_under
from fedinverse.data.source import Request, source_of
from fedinverse.errors import DataError


def album_of(request: Request, folders: tuple[str, ...], crop: Crop, licence: str) -> Album:
    """List the pictures under the first of ``folders`` that the root has (else the root itself).

    The person is the directory a picture lies in (the one above when that is called ``face``), spelled in
    lower case with single spaces, so that one person has one name in every source.

    Raises:
        DataError: no root, or no picture in a person's directory.
    """
    root = Path(request.root)
    base = next((root / name for name in folders if (root / name).is_dir()), root)
    paths = [path for path in pictures_under(base) if path.parent != base] if request.root else []
    if not paths:
        where = f"under '{request.root}'" if request.root else "because no root is set"
        raise DataError(
            f"{request.source}: no person's directory with pictures {where}; {source_of(request.source).obtain}"
        )
    owners = (path.parent.parent if path.parent.name.lower() == "face" else path.parent for path in paths)
    people = np.array([re.sub(r"[\W_]+", " ", owner.name).strip().lower() for owner in owners])
    return Album(paths, people, crop, licence, f"{base}, {len(paths)} pictures")
