"""A source: a name behind which images, labels, class names, a licence and a provenance stand.

A source decodes and preprocesses once; the result is a ``Pool``, two ``.npy`` files in the cache that every process
memory-maps. The pool's key is the hash of the request, so another seed, size or root makes another pool.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fedinverse.errors import ConfigError, DataError
from fedinverse.folders import absolute, check_writable, fingerprint
from fedinverse.registry import Registry
from fedinverse.storage import content_sha256, file_sha256, load_array, read_object, save_array, write_json

FORMAT = 2  # raise when a loader's output changes: old pools are then made anew


@dataclass(frozen=True)
class Request:
    """What is asked of a source.

    Attributes:
        source: its name, see ``fedinverse.registry``.
        shape: (channels, height, width) the images are brought to.
        root: directory that holds the data; empty: the source's offline default, if it has one.
        limit: at most this many images (generated sources: exactly this many); 0: all.
        seed: for generated sources and for the choice under ``limit``.
        fit: how 28x28 images fill a larger shape: ``border`` or ``stretch``.
        fingerprint: of the files below the root (``fedinverse.folders``), set by ``located``; empty: no root.
    """

    source: str
    shape: tuple[int, int, int]
    root: str = ""
    limit: int = 0
    seed: int = 0
    fit: str = "border"
    fingerprint: str = ""

    @property
    def place(self) -> str:
        """Where nothing was found, for messages."""
        return f"under '{self.root}'" if self.root else "because no root is set"


@dataclass(frozen=True)
class Images:
    """Decoded images of a source.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N], indices into ``class_names``.
        class_names: one name per class; sources that show the same thing give it the same name.
        licence: short licence note.
        origin: where the bytes came from, for people.
        left_out: in words, what lies there and was not read.
        holders: int64 [N], indices into ``client_names``: whose each image is, where the source knows.
        client_names: one name per client of the source.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    licence: str
    origin: str
    left_out: tuple[str, ...] = ()
    holders: NDArray[np.int64] | None = None
    client_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pool:
    """A decoded source on disk, memory-mapped on first use. Safe to send between processes: it is only a path."""

    path: Path

    @cached_property
    def images(self) -> NDArray[np.uint8]:
        """Memory-mapped uint8 [N, C, H, W]."""
        return load_array(self.path / "images.npy", memory_mapped=True)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """int64 [N]."""
        return load_array(self.path / "labels.npy")

    @cached_property
    def holders(self) -> NDArray[np.int64]:
        """int64 [N], indices into ``client_names``; only of a source that knows its clients."""
        return load_array(self.path / "holders.npy")

    @property
    def client_names(self) -> tuple[str, ...]:
        """One name per client of the source; empty: it knows none."""
        return tuple(map(str, self.about.get("client_names", ())))

    @cached_property
    def about(self) -> dict[str, Any]:
        """Source, licence, origin, class names and file hashes.

        Raises:
            DataError: there is no pool, or its description was altered.
        """
        path = self.path / "pool.json"
        if not path.is_file():
            raise DataError(f"{self.path}: there are no prepared images; were they moved, or was the cache emptied?")
        about = read_object(path, "class_names", "files")
        if not isinstance(about["class_names"], list) or not isinstance(about["files"], dict):
            raise DataError(f"{path}: altered since it was prepared; delete {self.path}")
        return about

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class."""
        return tuple(map(str, self.about["class_names"]))

    @property
    def recipe(self) -> str:
        """Source and number of images, such as ``glyphs/6000``, of a pool that needed no root, whatever its seed."""
        request = self.about.get("request", {})
        return "" if request.get("root", "?") else f"{request['source']}/{request['limit']}"

    def tensor(self, rows: NDArray[np.int64] | None = None) -> Tensor:
        """Return images as uint8 [n, C, H, W], channels-last: all, or ``rows`` in their order."""
        picked = self.images[:] if rows is None else self.images[rows]
        return torch.from_numpy(np.array(picked)).contiguous(memory_format=torch.channels_last)

    def verify(self) -> None:
        """Raise ``DataError`` naming what is gone, or which file changed by a byte since the pool was made."""
        for name, sha in self.about["files"].items():
            if not (self.path / name).is_file() or file_sha256(self.path / name) != sha:
                raise DataError(f"{self.path / name}: altered since it was prepared; delete {self.path}")


def unit(images: Tensor, device: str | torch.device = "cpu") -> Tensor:
    """Return uint8 images as float32 in [0, 1] on ``device``, channels-last."""
    return images.to(device=device, dtype=torch.float32).div_(255).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Source:
    """A registered source. ``obtain`` tells a user without the data how to get it."""

    name: str
    channels: int
    obtain: str
    load: Callable[[Request], Images]


def _source(imported: object) -> Source | None:
    if isinstance(imported, Source):
        return imported
    return next((source for source in SOURCES.entries() if source.load is imported), None)


SOURCES: Registry[Source] = Registry(
    "data source", "fedinverse.sources", "a function Request -> Images made a source with @register", _source
)


def register(
    name: str, channels: int, obtain: str
) -> Callable[[Callable[[Request], Images]], Callable[[Request], Images]]:
    """Register a loader ``Request -> Images`` as the source ``name``."""

    def wrap(load: Callable[[Request], Images]) -> Callable[[Request], Images]:
        SOURCES.register(name, Source(name, channels, obtain, load), load.__module__)
        return load

    return wrap


source_names, source_of = SOURCES.names, SOURCES.get


_ELSEWHERE: ContextVar[Path | None] = ContextVar("cache", default=None)


def cache_directory() -> Path:
    """Return where decoded data and trained priors are kept: $FEDINVERSE_CACHE or ~/.cache/fedinverse.

    Raises:
        ConfigError: neither is set, and this user has no home directory.
    """
    if (elsewhere := _ELSEWHERE.get()) is not None:
        return elsewhere
    if place := os.environ.get("FEDINVERSE_CACHE"):
        os.environ["FEDINVERSE_CACHE"] = absolute(place)  # processes that start in another directory mean the same one
        return Path(absolute(place))
    try:
        return Path.home() / ".cache" / "fedinverse"
    except RuntimeError as error:
        raise ConfigError(
            "this user has no home directory (HOME is not set): say where decoded data and priors are kept with "
            "FEDINVERSE_CACHE=DIR"
        ) from error


@contextmanager
def cache_at(directory: Path) -> Iterator[None]:
    """Let this thread keep decoded data and priors in ``directory`` for the time of a block; others do as before."""
    before = _ELSEWHERE.set(directory)
    try:
        yield
    finally:
        _ELSEWHERE.reset(before)


def open_source(request: Request) -> Pool:
    """Return the decoded pool of ``request``, preparing it on first use.

    A request that is not ``located`` yet is about what lies below its root now. One that is (a run's) is answered from
    the cache whatever happened there since.

    Raises:
        ConfigError: unknown source.
        DataError: the data is absent (the message says how to obtain it), malformed, or changed since it was located
            and no longer in the cache.
    """
    source, request = source_of(request.source), located(request)
    key = content_sha256(asdict(request) | {"format": FORMAT})[:16]
    pool = Pool(cache_directory() / "data" / f"{source.name}-{key}")
    if not (pool.path / "pool.json").exists():  # written last: its presence means the pool is whole
        if request.root and located(replace(request, fingerprint="")).fingerprint != request.fingerprint:
            raise DataError(
                f"{request.root}: files changed since this run was prepared, and what was read of them is no longer in "
                f"{cache_directory()}; start the run anew under another name"
            )
        _prepare(source, request, pool.path)
    return pool


def located(request: Request) -> Request:
    """Return ``request`` with an absolute root and the fingerprint of what lies there, if it has none yet."""
    if not request.root or request.fingerprint:
        return request
    root = Path(absolute(request.root))
    return replace(request, root=str(root), fingerprint=fingerprint(root))


def _prepare(source: Source, request: Request, path: Path) -> None:
    check_writable(path, "FEDINVERSE_CACHE" if os.environ.get("FEDINVERSE_CACHE") else "the cache in your home")
    loaded = source.load(request)
    images, labels, holders = loaded.images, loaded.labels.astype(np.int64), loaded.holders
    if images.dtype != np.uint8 or images.shape[1:] != request.shape or len(images) != len(labels):
        raise DataError(
            f"source '{source.name}' gave images {images.dtype} {images.shape} and {len(labels)} labels; "
            f"uint8 (N, {', '.join(map(str, request.shape))}) and N labels were expected"
        )
    if request.limit and len(images) > request.limit:
        rows = sample(len(images), request.limit, request.seed)
        images, labels = images[rows], labels[rows]
        holders = None if holders is None else holders[rows]
    arrays: dict[str, NDArray[Any]] = {"images.npy": images, "labels.npy": labels}
    if holders is not None:
        arrays["holders.npy"] = holders
    for name, array in arrays.items():
        save_array(path / name, array)
    write_json(
        path / "pool.json",
        {
            "source": source.name,
            "request": asdict(request),
            "count": len(images),
            "class_names": list(loaded.class_names),
            "licence": loaded.licence,
            "origin": loaded.origin,
            "left_out": list(loaded.left_out),
            "client_names": list(loaded.client_names),
            "files": {name: file_sha256(path / name) for name in arrays},
        },
    )


def sample(count: int, limit: int, seed: int) -> NDArray[np.int64]:
    """Return which of ``count`` images a ``limit`` keeps, ascending: a seeded choice, or all when it is 0."""
    return np.sort(np.random.default_rng(seed).permutation(count)[: limit or None])


def resized(images: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return ``images`` [N, C, h, w] at ``size``, bilinear and anti-aliased."""
    parts = [
        F.interpolate(part.float(), size=size, mode="bilinear", antialias=True).round_().to(torch.uint8)
        for part in torch.split(torch.from_numpy(images), 2000)
    ]
    return torch.cat(parts).numpy()


def fit_gray(images: NDArray[np.uint8], request: Request) -> NDArray[np.uint8]:
    """Bring grey images [N, 28, 28] to [N, 1, H, W]: by a black border, or stretched (bilinear).

    The published code of GMI, KED-MI and FedInverse stretches; a border leaves the pixels as they are.
    """
    channels, height, width = request.shape
    if channels != 1 or height < 28 or width < 28:
        raise ConfigError(
            f"source '{request.source}' holds 1x28x28 images; the model takes {channels}x{height}x{width}. "
            "Choose a model for 1x32x32 images (mcnn, lenet5) or another source"
        )
    if request.fit == "stretch":
        return resized(images[:, None], (height, width))
    top, left = (height - 28) // 2, (width - 28) // 2
    padding = ((0, 0), (top, height - 28 - top), (left, width - 28 - left))
    return np.pad(images, padding)[:, None]
