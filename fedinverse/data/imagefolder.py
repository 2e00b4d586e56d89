"""Any pictures, sorted into one directory per class: torchvision's ImageFolder layout."""

from pathlib import Path

import numpy as np

from fedinverse.data.pictures import decode, pictures_under, whole
from fedinverse.data.source import Images, Request, register, sample
from fedinverse.errors import DataError

OBTAIN = "set the root to a directory that holds one directory of pictures per class"


@register("imagefolder", 3, OBTAIN)
def load(request: Request) -> Images:
    """Return the pictures below the root, class = first directory; of each its largest centred square."""
    root = Path(request.root)
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if request.root and root.is_dir() else []
    found = {folder.name: pictures_under(folder) for folder in folders if not folder.name.startswith(".")}
    names = tuple(name for name, paths in found.items() if paths)
    if not names:
        where = f"'{request.root}' holds no directory with pictures" if request.root else "no root is set"
        raise DataError(f"imagefolder: {where}; {OBTAIN}")
    paths = [path for name in names for path in found[name]]
    labels = np.repeat(np.arange(len(names)), [len(found[name]) for name in names])
    rows = sample(len(paths), request.limit, request.seed)
    images = decode([paths[row] for row in rows], request, whole)
    return Images(images, labels[rows], names, "that of the pictures' owner", f"{root}, {len(paths)} pictures")
