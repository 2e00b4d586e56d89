"""Named arrays as Flower's messages carry them: each one ``.npy`` file, read without pickle, and only if it must be.

Between hosts an array is its bytes. Within a machine nobody needs those: an array that this program packs keeps its
values, encodes them when somebody asks for the bytes, and is pickled as the values themselves, which can then go to
another process of this machine without a copy. What has come as bytes is looked at before it is decoded: its size, then
its header, then whether both agree.
"""

import io
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedinverse.errors import RefusedReplyError
from fedinverse.words import plain

_NPY = "numpy.ndarray"  # Flower's name of the format
_NUMBERS = "fiubc"  # kinds of dtypes
_HEADER = 10_000  # bytes: more than numpy accepts of an array's header


class PackedArray(Array):
    """An array of a message whose values are at hand; they cannot be written. Its bytes are made when asked for."""

    __qualname__ = Array.__qualname__  # by which Flower says, in what it sends to another host, what it is

    def __init__(self, values: NDArray[Any]) -> None:
        view = values.view()
        view.flags.writeable = False
        self.__dict__.update(dtype=_named(values.dtype), shape=values.shape, stype=_NPY, values=view)

    def numpy(self) -> NDArray[Any]:
        """Return the values."""
        values: NDArray[Any] | None = self.__dict__["values"]
        return super().numpy() if values is None else values

    def __getattr__(self, name: str) -> Any:
        if name != "data":
            raise AttributeError(name)
        data = self.__dict__["data"] = _encoded(self.__dict__["values"])
        return data

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "data":  # from now on it is what these bytes say
            self.__dict__["values"] = None
        super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        values = self.__dict__["values"]
        if values is None:
            return Array, (self.dtype, self.shape, self.stype, self.data)
        return _packed, (values,)


@lru_cache(maxsize=64)
def _named(dtype: np.dtype[Any]) -> str:
    """Return numpy's name of ``dtype``, which takes as long to make as 40 kB to copy."""
    return str(dtype)


def _packed(values: NDArray[Any]) -> PackedArray:
    """Return ``values`` as an array of a message: what one that was pickled is made of."""
    return PackedArray(values)


def to_record(weights: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    """Pack named arrays, which nobody changes any more, into the record a message carries."""
    record = ArrayRecord()
    for name, array in weights.items():
        record[name] = PackedArray(array)
    return record


def from_record(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    """Unpack the named arrays of a message of our own or of the server's (npy without pickle)."""
    return {name: np.asarray(array.numpy()) for name, array in record.items()}


def values_at_hand(array: Array) -> NDArray[Any] | None:
    """Return the values of an array that needs no decoding; None: it is bytes."""
    return array.__dict__.get("values") if isinstance(array, PackedArray) else None


def is_packed(record: object) -> bool:
    """Return whether ``record`` is arrays whose values are all at hand."""
    return isinstance(record, ArrayRecord) and all(values_at_hand(array) is not None for array in record.values())


def size_of(array: Array) -> int:
    """Return how many bytes ``array`` takes: encoded or, where nobody encoded it, as it is."""
    values = values_at_hand(array)
    return len(array.data) if values is None else values.nbytes


def opened(array: Array, name: str) -> NDArray[Any]:
    """Return the values of the array called ``name``, numbers of any shape; they cannot be written.

    Raises:
        RefusedReplyError: another serialisation, no numbers, or truncated.
    """
    values = values_at_hand(array)
    if values is not None and values.dtype.kind in _NUMBERS:
        return values
    what = f"array '{plain(name, 60)}'"
    if array.stype != _NPY:
        raise RefusedReplyError(f"{what} is not in numpy's format")
    return _opened(array.data, what)


def decode(array: Any, what: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the values of a Flower array of ``shape`` and of the kind of ``dtype``, as ``dtype``; not to be written.

    Nothing is allocated before the encoded bytes, and what their header says, are known to be of this size.

    Raises:
        RefusedReplyError: another serialisation, type, shape or size.
    """
    values = values_at_hand(array)
    readable = isinstance(array, Array) and array.stype == _NPY
    if not readable or (values is None and not isinstance(array.data, bytes)):
        raise RefusedReplyError(f"{what} is not in numpy's format")
    if tuple(array.shape) != tuple(shape):  # what it says beside its bytes, which somebody else may read
        raise RefusedReplyError(f"{what} says that its shape is {plain(array.shape, 60)}; {tuple(shape)} is needed")
    if values is None:
        return decode_bytes(array.data, what, shape, dtype)
    return _fitting(values, what, shape, dtype)


def decode_bytes(data: bytes, what: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """As ``decode``, for the bytes of one ``.npy`` file.

    Raises:
        RefusedReplyError: no array, or of another type, shape or size.
    """
    count = math.prod(shape)
    if len(data) > _HEADER + 8 * count:
        raise RefusedReplyError(f"{what} has {len(data)} bytes; its {count} values need fewer")
    return _fitting(_opened(data, what), what, shape, dtype)


def _fitting(values: NDArray[Any], what: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    if values.dtype.kind != dtype.kind or values.dtype.itemsize > 8:
        raise RefusedReplyError(f"{what} holds {plain(values.dtype, 40)}; {dtype} is needed")
    if values.shape != tuple(shape):
        raise RefusedReplyError(f"{what} has shape {plain(values.shape, 60)}; {tuple(shape)} is needed")
    with np.errstate(over="ignore"):
        return np.asarray(values, dtype, order="C")


def _encoded(array: NDArray[Any]) -> bytes:
    """Return ``array`` as one ``.npy`` file, byte for byte what ``np.save`` writes, copied once."""
    header = io.BytesIO()
    packed = np.asarray(array, order="C")
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(packed))
    return b"".join((header.getvalue(), packed.reshape(-1).view(np.uint8).data))


def _opened(data: bytes, what: str) -> NDArray[Any]:
    """Return a view of the values in one ``.npy`` file whose header says what is there, and nothing executable."""
    try:
        shape, fortran, dtype, start = _header(data[: _header_end(data)])
    except Exception as error:  # the header is a Python literal of somebody else's: anything may be wrong with it
        raise RefusedReplyError(f"{what} is no array ({plain(error, 80)})") from None
    if dtype.kind not in _NUMBERS or dtype.names is not None or dtype.subdtype is not None:
        raise RefusedReplyError(f"{what} holds {plain(dtype, 40)}, no numbers")
    count = math.prod(shape)
    if min(shape, default=1) < 0 or len(data) - start != count * dtype.itemsize:
        raise RefusedReplyError(f"{what} is truncated, or longer than its header says")
    try:
        return np.frombuffer(data, dtype, count, start).reshape(shape, order="F" if fortran else "C")
    except (ValueError, TypeError) as error:  # empty along one axis and endless along another, 70 axes, axes of True
        raise RefusedReplyError(f"{what} has an impossible shape ({plain(error, 80)})") from None


def _header_end(data: bytes) -> int:
    """Return where the values begin, as the length in the header has it."""
    size = 2 if data[6:8] == b"\x01\x00" else 4
    return 8 + size + int.from_bytes(data[8 : 8 + size], "little")


@lru_cache(maxsize=512)
def _header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, whether the order is Fortran's, dtype, and where the values begin.

    Every client of every round sends the headers of the same arrays, and reading one takes as long as 100 kB of values.
    """
    stream = io.BytesIO(header)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    return shape, fortran, dtype, stream.tell()
