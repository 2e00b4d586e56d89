"""Prepared sources in the cache, as people see them: which there are, whether they are whole, and a picture of each."""

from pathlib import Path

import numpy as np

from fedinverse.data import Images, Pool, Request, located, source_of
from fedinverse.data.source import cache_directory, unit
from fedinverse.errors import ConfigError, DataError
from fedinverse.folders import absolute
from pipeline.cli.choice import check_channels
from pipeline.cli.pictures import COLUMNS, save_sheet, shape_of

PICTURE = "pictures.png"
TRIED = 1000  # images that a check decodes: at least two whole people of every face source
_SHAPES = {1: "1x32x32", 3: "3x64x64"}  # by channels, what the models of the papers take
_ROWS = 12


def request_of(name: str, shape: str, root: str, limit: int, seed: int) -> Request:
    """Return the request for a source; without a ``shape``, the one that the papers' models take.

    Raises:
        ConfigError: unknown source, malformed shape, or one with other channels than the source has.
    """
    channels = source_of(name).channels
    if not shape and channels not in _SHAPES:
        raise ConfigError(f"source '{name}' holds images of any shape; give theirs, such as --shape 3x32x32")
    wanted = shape_of(shape or _SHAPES[channels])
    check_channels(name, wanted)
    return Request(name, wanted, absolute(root), limit, seed)


def tried(request: Request) -> Images:
    """Read ``request.limit`` images of a source, or all where it reads them in one piece, without caching them.

    Raises:
        DataError: absent, damaged or empty; the message says how to obtain it.
    """
    source = source_of(request.source)
    loaded = source.load(request)
    if len(loaded.images) == 0:
        raise DataError(f"{source.name}: {loaded.origin} holds no image; {source.obtain}")
    return loaded


def prepared(name: str) -> list[Pool]:
    """Return every whole pool in the cache that was prepared from the source ``name``."""
    folders = sorted(path.parent for path in (cache_directory() / "data").glob(f"{name}-*/pool.json"))
    return [Pool(folder) for folder in folders]


def outdated(pools: list[Pool], request: Request) -> list[Pool]:
    """Return which pools were read below the request's root before a file there changed."""
    now = located(request)
    asked = [(pool, pool.about.get("request", {})) for pool in pools]
    return [pool for pool, was in asked if was.get("root") == now.root and was.get("fingerprint") != now.fingerprint]


def draw(pool: Pool) -> Path:
    """Write a picture of the first images of the pool's first classes, a row each; return where."""
    rows = [np.flatnonzero(pool.labels == label)[:COLUMNS] for label in np.unique(pool.labels)[:_ROWS]]
    save_sheet(pool.path / PICTURE, [unit(pool.tensor(row)) for row in rows])
    return pool.path / PICTURE
