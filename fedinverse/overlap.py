"""Whether the attacker's public images show what only the victim should: classes by name, pictures by content.

Two pictures count as alike when their sketches, 16 x 16 grey pixels less their mean, are correlated by ``ALIKE`` or
more, as they are or mirrored. Grey is the mean of the channels or, as picture programs make it, their luma (ITU-R
BT.601): a grey copy of a colour picture is that picture. Where both sets come from directories of the user's, copies
that were cut out, moved or stretched are looked for too (``fedinverse.cut_copies``); sources without a directory show
other things than each other.

Measured: a JPEG of quality 50 has .990 to .999 with its original, the same picture at three quarters of its size .997
and more; of two thousand five hundred MNIST digits and as many others no pair reaches .995, nor any drawn face and one
of another person (.93).
"""

import hashlib
from collections.abc import Iterator
from functools import reduce

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fedinverse.config import Population
from fedinverse.cut_copies import Originals
from fedinverse.data import Pool
from fedinverse.errors import ConfigError
from fedinverse.folders import spelling
from fedinverse.progress import Progress, silent

ALIKE = 0.995
_SIDE = 16
_GREYS = ((1 / 3, 1 / 3, 1 / 3), (0.299, 0.587, 0.114))
_AT_ONCE = 2000  # sketches compared in one product
CUT_OUT = "looking for pictures cut out of the victim's"
_CUT = 1000  # so many of the victim's pictures, evenly chosen, are looked for as cut out or moved


def shared_names(private: tuple[str, ...], public: tuple[str, ...]) -> list[str]:
    """Return which of the ``private`` class names the ``public`` ones hold too, in whatever spelling."""
    known = {spelling(name) for name in public}
    return [name for name in private if spelling(name) in known]


def check_disjoint(
    private: Pool,
    public: Pool,
    population: Population,
    pictures: NDArray[np.int64] | None = None,
    *,
    allow: bool,
    keys: tuple[str, str] = ("data.public", "data.private"),
    progress: Progress = silent,
) -> None:
    """Refuse a public set that shows a class of the victim's alone or a picture of theirs, unless ``allow``.

    Args:
        pictures: rows of the victim's pictures where they share their classes; None: all of the victim classes.
        allow: whether the configuration allows overlap.
        keys: what the user's file calls the two, for messages.
        progress: told about the search for pictures that were cut out.

    Raises:
        ConfigError: names the classes, or how many pictures are shared and one of them.
    """
    if allow or (not population.victim_classes and pictures is None):
        return
    names = shared_names(tuple(private.class_names[label] for label in population.victim_classes), public.class_names)
    instead = "Choose other public images: what the attacker shows could be its own"
    if keys[0] == "data.public":
        instead += "; or set data.allow_overlap = true to have every output marked"
    if names:
        raise ConfigError(f"{keys[0]} shares the classes {', '.join(sorted(names))} with the victim. {instead}")
    rows = np.flatnonzero(np.isin(private.labels, population.victim_classes)) if pictures is None else pictures
    pairs = shared_pictures(private.images, rows, public.images) if len(rows) else []
    if len(rows) and not pairs and not private.recipe and not public.recipe:
        some = rows[np.linspace(0, len(rows) - 1, min(len(rows), _CUT)).astype(int)]
        pairs = _cut_out(private.images, some, public.images, progress)
    if pairs:
        row, other = pairs[0]
        raise ConfigError(
            f"{keys[0]} holds {len({public for _, public in pairs})} pictures of the victim, the same or nearly: its "
            f"image {other} is image {row} of {keys[1]}, class {private.class_names[private.labels[row]]}. {instead}"
        )


def shared_pictures(
    private: NDArray[np.uint8], rows: NDArray[np.int64], public: NDArray[np.uint8]
) -> list[tuple[int, int]]:
    """Return (row of ``private``, row of ``public``) of every public picture that is one of ``rows``, or nearly.

    Images are uint8 [N, C, H, W]; every public picture is named once.
    """
    known = {hashlib.sha256(private[row].tobytes()).digest(): int(row) for row in rows}
    pairs = {}
    for number, image in enumerate(public):
        private_row = known.get(hashlib.sha256(image.tobytes()).digest())
        if private_row is not None:
            pairs[number] = private_row
    victims = torch.cat([part for _, part in _sketches(private, rows)], 1)
    victims = torch.cat([victims, victims.view(*victims.shape[:2], _SIDE, _SIDE).flip(3).flatten(2)])
    for start, part in _sketches(public, np.arange(len(public))):
        closeness, nearest = reduce(torch.maximum, (grey @ other.T for grey in part for other in victims)).max(1)
        for place in torch.nonzero(closeness >= ALIKE).flatten().tolist():
            pairs.setdefault(start + place, int(rows[int(nearest[place])]))
    return [(private_row, number) for number, private_row in sorted(pairs.items())]


def _cut_out(
    private: NDArray[np.uint8], rows: NDArray[np.int64], public: NDArray[np.uint8], progress: Progress = silent
) -> list[tuple[int, int]]:
    """Return (row of ``private``, row of ``public``) of copies that were cut out, moved or stretched.

    Images are uint8 [N, C, H, W]; of the public ones a part at a time is made grey, however many there are.
    """
    originals, pairs = Originals(_grey(private, rows)), []
    for start in range(0, len(public), _AT_ONCE):
        progress(CUT_OUT, start, len(public))
        part = _grey(public, np.arange(start, min(start + _AT_ONCE, len(public))))
        pairs += [(int(rows[row]), start + number) for row, number in originals.copies(part)]
    progress(CUT_OUT, len(public), len(public))
    return pairs


def _grey(images: NDArray[np.uint8], rows: NDArray[np.int64]) -> Tensor:
    """Return ``rows`` as grey pictures, float [n, H, W] in [0, 255]."""
    parts = np.array_split(rows, max(1, len(rows) // _AT_ONCE))
    return torch.cat([torch.from_numpy(np.array(images[part])).float().mean(1) for part in parts])


def _sketches(images: NDArray[np.uint8], rows: NDArray[np.int64]) -> Iterator[tuple[int, Tensor]]:
    """Yield (start, sketches [greys, n, 256] of length 1) of ``rows`` in parts; a picture of one shade has length 0."""
    greys = torch.tensor(_GREYS if images.shape[1] == 3 else [[1 / images.shape[1]] * images.shape[1]])
    for start in range(0, len(rows), _AT_ONCE):
        part = torch.from_numpy(np.array(images[rows[start : start + _AT_ONCE]])).float()
        small = F.interpolate(torch.einsum("gc,nchw->gnhw", greys, part), size=(_SIDE, _SIDE), mode="area").flatten(2)
        centred = small - small.mean(2, keepdim=True)
        length = centred.norm(dim=2, keepdim=True)
        yield start, torch.where(length > 1, centred / length.clamp_min(1), torch.zeros_like(centred))
