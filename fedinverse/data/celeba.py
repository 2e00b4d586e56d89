"""CelebA, aligned (Liu et al., ICCV 2015), in torchvision's layout, cropped as the attacks' papers do.

``celeba`` are 1,000 private identities, ``celeba_public`` all others. Where KED-MI's published ``trainset.txt`` and
``testset.txt`` lie in the root, the private ones are theirs with the class numbers that are there, so that published
checkpoints fit; else a seeded list.
"""

import hashlib
from pathlib import Path

import numpy as np

from fedinverse.data.identities import Album, private_people, register_people
from fedinverse.data.source import Request
from fedinverse.errors import DataError

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


def _folder(request: Request) -> Path:
    root = Path(request.root)
    for folder in (root, root / "celeba"):
        if (folder / "identity_CelebA.txt").is_file() and (folder / "img_align_celeba").is_dir():
            return folder
    where = f"under '{request.root}'" if request.root else "because no root is set"
    raise DataError(f"{request.source}: no img_align_celeba/ with identity_CelebA.txt {where}; {OBTAIN}")


def _album(request: Request) -> Album:
    folder = _folder(request)
    listing = folder / "identity_CelebA.txt"
    raw = listing.read_bytes()
    fields = [line.split() for line in raw.decode("utf-8", "replace").splitlines() if line.strip()]
    wrong = next((row for row, parts in enumerate(fields, 1) if len(parts) != 2 or not parts[1].isdigit()), None)
    if wrong is not None or not fields:
        raise DataError(f"{listing}: line {wrong or 1} is not 'file identity'; download it again")
    official = hashlib.md5(raw, usedforsecurity=False).hexdigest() == OFFICIAL_LIST
    origin = f"{folder}, {'official' if official else 'other'} list of {len(fields)} images"
    present = {path.name for path in (folder / "img_align_celeba").iterdir()}
    absent = [name for name, _ in fields if name not in present]
    if absent:
        raise DataError(
            f"{folder / 'img_align_celeba'}: {len(absent)} of {len(fields)} listed pictures are missing, "
            f"first {absent[0]}; unpack img_align_celeba.zip again"
        )
    paths = [folder / "img_align_celeba" / name for name, _ in fields]
    return Album(paths, np.array([f"celeba {person}" for _, person in fields]), _aligned, LICENCE, origin)


def _aligned(path: Path, width: int, height: int) -> int:
    if (width, height) != ALIGNED:
        raise DataError(f"{path}: {width}x{height} pixels; aligned CelebA pictures are 178x218 (img_align_celeba)")
    return CROP


def _private(album: Album, request: Request) -> list[str]:
    """Return the identities of KED-MI's lists (lines ``file label``, any suffix) by label, or the seeded ones."""
    folder = _folder(request)
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
