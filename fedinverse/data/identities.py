"""Whose faces are private and whose are public: one rule for every source of named people.

The private people are a seeded list; everyone else is public. The list depends on the seed and on the data
alone, so that ``celeba`` and ``celeba_public`` opened with one seed never share a person, whatever their
limits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedinverse.data.pictures import Crop, decode
from fedinverse.data.source import Images, Request, register, sample
from fedinverse.errors import ConfigError, DataError
from fedinverse.seeds import numpy_generator


@dataclass(frozen=True)
class Album:
    """Photographs of named people, not decoded yet.

    Attributes:
        paths: one file per image.
        people: str [N], who is on it.
        crop: the published crop of the source.
        left_out: in words, what lies there and is not among them.
    """

    paths: Sequence[Path]
    people: NDArray[np.str_]
    crop: Crop
    licence: str
    origin: str
    left_out: tuple[str, ...] = ()


def register_people(
    name: str,
    obtain: str,
    everyone: Callable[[Request], Album],
    private: Callable[[Album, Request], list[str]],
) -> None:
    """Register two sources: ``name``, the private people, and ``name_public``, everyone else.

    Args:
        everyone: lists the photographs; raises ``DataError`` when there are none.
        private: returns who is private; the same for the same album and seed.
    """

    def load(request: Request) -> Images:
        album = everyone(request)
        return private_images(album, private(album, request), request)

    def load_public(request: Request) -> Images:
        album = everyone(request)
        return public_images(album, private(album, request), request)

    for called, loader in ((name, load), (f"{name}_public", load_public)):
        loader.__module__ = everyone.__module__  # whose sources they are
        register(called, 3, obtain)(loader)


def private_people(album: Album, seed: int, most: int, at_least: int) -> list[str]:
    """Return the private people in seeded order.

    Args:
        most: length of the list; half of those who qualify where that is fewer, so that a public remains.
        at_least: images a person must have to qualify, enough for train, vault and reserve.

    Raises:
        DataError: fewer than four people qualify.
    """
    names, counts = np.unique(album.people, return_counts=True)
    eligible = names[counts >= at_least]
    if len(eligible) < 4:
        raise DataError(
            f"{album.origin}: {len(eligible)} people have {at_least} images or more; at least 4 are needed. "
            "Is the data set complete?"
        )
    order = numpy_generator(seed, "private people").permutation(len(eligible))
    return [str(name) for name in eligible[order[: min(most, len(eligible) // 2)]]]


def private_images(album: Album, people: list[str], request: Request) -> Images:
    """Decode the images of ``people``, in their order; a ``limit`` is met by leaving out whole people.

    Raises:
        ConfigError: the limit leaves fewer than two people.
    """
    rows_of: dict[str, list[int]] = {name: [] for name in people}
    for row, name in enumerate(album.people):
        if name in rows_of:
            rows_of[str(name)].append(row)
    totals = np.cumsum([len(rows) for rows in rows_of.values()])
    kept = people[: int((totals <= request.limit).sum())] if request.limit else people
    if len(kept) < 2:
        raise ConfigError(
            f"a limit of {request.limit} images leaves {len(kept)} people of '{request.source}'; "
            f"set data.private_limit to {totals[1]} or more, or 0 for all"
        )
    rows = np.array([row for name in kept for row in rows_of[name]])
    labels = np.repeat(np.arange(len(kept)), [len(rows_of[name]) for name in kept])
    return _decoded(album, rows, labels, tuple(kept), request)


def public_images(album: Album, private: list[str], request: Request) -> Images:
    """Decode images of everyone who is not in ``private``: all, or ``limit`` by seeded choice."""
    others = np.flatnonzero(~np.isin(album.people, private))
    rows = others[sample(len(others), request.limit, request.seed)]
    names, labels = np.unique(album.people[rows], return_inverse=True)
    return _decoded(album, rows, labels, tuple(map(str, names)), request)


def _decoded(
    album: Album, rows: NDArray[np.int64], labels: NDArray[np.int64], names: tuple[str, ...], request: Request
) -> Images:
    images = decode([album.paths[row] for row in rows], request, album.crop)
    return Images(images, labels.astype(np.int64), names, album.licence, album.origin, album.left_out)
