"""CelebA, aligned (Liu et al., ICCV 2015), in torchvision's layout, cropped as the attacks' papers do.

``celeba`` are 1,000 private identities, ``celeba_public`` all others. Where KED-MI's published ``trainset.txt`` and
``testset.txt`` lie in the root, the private ones are theirs with the class numbers that are there, so that published
checkpoints fit; else a seeded list.
"""

import hashlib
import io
from pathlib import Path

import numpy as np

from fedinverse.data.identities import Album, private_people, register_people
from fedinverse.data.source import Request
from fedinverse.data.synthfaces import VIEWS, photograph
from fedinverse.errors import DataError
from fedinverse.seeds import numpy_generator
from fedinverse.storage import atomic_write

IDENTITIES = 1000
AT_LEAST = 20
ALIGNED = (178, 218)  # width, height of every aligned picture
CROP = 108  # GMI (CVPR 2020), KED-MI (ICCV 2021): centre crop 108, resize 64
OFFICIAL_LIST = "32bd1bd63d3c78cd57e08160ec5ed1e2"  # MD5 of identity_CelebA.txt, as torchvision knows it
LICENCE = "CelebA agreement: non-commercial research only, no redistribution"
OBTAIN = (
    "download img_align_celeba.zip and identity_CelebA.txt from "
    "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (or torchvision.datasets.CelebA(root)), "
    "unpack the zip, and set the root to the directory of both"
)


_LISTS = ("", "Anno", "celeba", "celeba/Anno", "CelebA", "CelebA/Anno")  # below the root: torchvision's, the site's
_PICTURES = ("img_align_celeba", "Img/img_align_celeba", "img_align_celeba/img_align_celeba", "img_align_celeba_png")


def _listing(request: Request) -> Path:
    """Return the identity list, wherever below the root the known layouts have it."""
    root = Path(request.root)
    candidates = [root / folder / "identity_CelebA.txt" for folder in _LISTS] if request.root else []
    listing = next((path for path in candidates if path.is_file()), None)
    if listing is None:
        where = f"under '{request.root}' (looked in {', '.join(filter(None, _LISTS))} too)" if request.root else ""
        raise DataError(
            f"{request.source}: no identity_CelebA.txt {where or 'because no root is set'}; {OBTAIN}. The pictures "
            "alone do not say who is on them"
        )
    return listing


def _pictures(request: Request, listing: Path, wanted: str) -> Path:
    """Return the directory with the pictures: of the known places the first that holds ``wanted``, else that exists."""
    bases = [listing.parent, listing.parent.parent] if listing.parent.name == "Anno" else [listing.parent]
    places = [base / folder for base in bases for folder in _PICTURES if (base / folder).is_dir()]
    if not places:
        raise DataError(
            f"{request.source}: {listing} is there, but beside it no directory {' or '.join(_PICTURES)}; "
            "unpack img_align_celeba.zip there"
        )
    return next((place for place in places if (place / wanted).is_file()), places[0])


def _album(request: Request) -> Album:
    listing = _listing(request)
    raw = listing.read_bytes()
    fields = [line.split() for line in raw.decode("utf-8-sig", "replace").splitlines() if line.strip()]
    wrong = next((row for row, parts in enumerate(fields, 1) if len(parts) != 2 or not parts[1].isdigit()), None)
    if wrong is not None or not fields:
        raise DataError(f"{listing}: line {wrong or 1} is not 'file identity'; download it again")
    official = hashlib.md5(raw, usedforsecurity=False).hexdigest() == OFFICIAL_LIST
    folder = _pictures(request, listing, fields[0][0])
    origin = f"{folder}, {'official' if official else 'other'} list of {len(fields)} images"
    present = {path.name for path in folder.iterdir()}
    absent = [name for name, _ in fields if name not in present]
    if absent:
        stems = {Path(name).stem: name for name in present}
        other = stems.get(Path(absent[0]).stem)
        hint = f"the list says {absent[0]} where {other} lies there" if other else "unpack img_align_celeba.zip again"
        raise DataError(
            f"{folder}: {len(absent)} of {len(fields)} listed pictures are missing, first {absent[0]}; {hint}"
        )
    surplus = len(present) - len(fields)
    left_out = (f"{surplus} files that identity_CelebA.txt does not list",) if surplus else ()
    people = np.array([f"celeba {person}" for _, person in fields])
    return Album([folder / name for name, _ in fields], people, _aligned, LICENCE, origin, left_out)


def _aligned(path: Path, width: int, height: int) -> int:
    if (width, height) != ALIGNED:
        raise DataError(f"{path}: {width}x{height} pixels; aligned CelebA pictures are 178x218 (img_align_celeba)")
    return CROP


def _private(album: Album, request: Request) -> list[str]:
    """Return the identities of KED-MI's lists (lines ``file label``, any suffix) by label, or the seeded ones."""
    folder = _listing(request).parent
    lists = [folder / f"{prefix}{split}set.txt" for split in ("train", "test") for prefix in ("", "celeba_")]
    present = [path for path in lists if path.is_file()]
    if not present:
        return private_people(album, request.seed, IDENTITIES, AT_LEAST)
    person_of = dict(zip((path.stem for path in album.paths), map(str, album.people), strict=True))
    people: dict[int, str] = {}
    for path in present:
        for row, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            parts = line.split()
            if not parts:
                continue
            if len(parts) != 2 or not parts[1].isdigit():
                raise DataError(f"{path}: line {row} is not 'file class'; obtain it again or remove it")
            person = person_of.get(Path(parts[0]).stem)
            if person is None:
                raise DataError(f"{path}: lists {parts[0]}, which identity_CelebA.txt does not; remove one of them")
            if people.setdefault(int(parts[1]), person) != person:
                raise DataError(f"{path}: line {row}: class {parts[1]} is {person}, and {people[int(parts[1])]} before")
    if sorted(people) != list(range(len(people))) or len(set(people.values())) != len(people):
        raise DataError(f"{present[0]}: its classes are not 0 to {len(people) - 1}, one person each; obtain it again")
    return [people[label] for label in range(len(people))]


register_people("celeba", OBTAIN, _album, _private)


_BATCH = 256  # pictures held in memory at once


def write_celeba_layout(root: Path, count: int, seed: int = 0) -> Path:
    """Write ``count`` synthfaces (30 of each person) under ``root``, people in random order as CelebA's are.

    The centre crop of 108 pixels is the frame of ``synthfaces``; hair, shoulders and background go on around
    it.

    Returns:
        The directory with ``img_align_celeba/`` and ``identity_CelebA.txt`` (written last).
    """
    from PIL import Image

    width, height = ALIGNED
    order = numpy_generator(seed, "celeba layout").permutation(count)
    for start in range(0, count, _BATCH):
        faces = photograph(order[start : start + _BATCH], "synthface", seed, height=height, width=width, pixel=2 / CROP)
        for number, face in enumerate(faces, start + 1):
            file = io.BytesIO()
            Image.fromarray(face.transpose(1, 2, 0)).save(file, "JPEG", quality=95)
            atomic_write(root / "img_align_celeba" / f"{number:06d}.jpg", file.getvalue())
    lines = (f"{number:06d}.jpg {row // VIEWS + 1}\n" for number, row in enumerate(order, 1))
    atomic_write(root / "identity_CelebA.txt", "".join(lines))
    return root
