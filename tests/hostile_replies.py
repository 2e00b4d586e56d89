"""Replies of one hostile or broken client, by kind: each a change of the honest reply's records."""

import io
import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedinverse.arrays import from_record, to_record
from fedinverse.messages import ARRAYS, CLIENT, METRICS

Change = Callable[[RecordDict], RecordDict]
NAN, INF = math.nan, math.inf


def _changed(content: RecordDict, name: str, record: Any) -> RecordDict:
    return RecordDict({**content, name: record})


def metric(**values: Any) -> Change:
    """Set metrics; underscores are dashes, None takes one away."""

    def change(content: RecordDict) -> RecordDict:
        table = {**content[METRICS], **{key.replace("_", "-"): value for key, value in values.items()}}
        return _changed(content, METRICS, MetricRecord({k: v for k, v in table.items() if v is not None}))

    return change


def report(**values: Any) -> Change:
    """Set what the client says of itself; None takes it away."""

    def change(content: RecordDict) -> RecordDict:
        table = {**content[CLIENT], **values}
        return _changed(content, CLIENT, ConfigRecord({k: v for k, v in table.items() if v is not None}))

    return change


def weights(make: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]], kind: str = "f") -> Change:
    """Put other values in place of every array of a dtype kind."""

    def change(content: RecordDict) -> RecordDict:
        table = from_record(content[ARRAYS])
        other = {name: make(array) if array.dtype.kind == kind else array for name, array in table.items()}
        return _changed(content, ARRAYS, to_record(other))

    return change


def encoded(make: Callable[[Array], Array]) -> Change:
    """Put another encoding in place of the first array's."""

    def change(content: RecordDict) -> RecordDict:
        first, *_ = content[ARRAYS]
        return _changed(content, ARRAYS, ArrayRecord({**content[ARRAYS], first: make(content[ARRAYS][first])}))

    return change


def named(make: Callable[[dict[str, Array]], dict[str, Array]]) -> Change:
    """Change which arrays there are."""
    return lambda content: _changed(content, ARRAYS, ArrayRecord(make(dict(content[ARRAYS]))))


def records(make: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    """Change which records there are."""
    return lambda content: RecordDict(make(dict(content)))


def without(name: str) -> Change:
    return records(lambda table: {key: value for key, value in table.items() if key != name})


def _bytes(data: bytes, stype: str = "numpy.ndarray") -> Callable[[Array], Array]:
    return lambda old: Array(old.dtype, old.shape, stype, data)


def npy_header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    """Return the beginning of a ``.npy`` file that says ``shape``."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def _header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    return npy_header(shape, dtype) + bytes(64)


def _npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(3))
    return stream.getvalue()


def _of(dtype: Any) -> Change:
    return weights(lambda array: np.zeros(array.shape, dtype))


_EVIL_HEADER = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + b"__import__('os').abort()".ljust(117) + b"\n"
DP = {"dp_noise_multiplier": 1.0, "dp_sample_rate": 0.1, "dp_steps": 3.0, "delta": 1e-5}

TRAIN: dict[str, Change] = {
    # arrays: values
    "NaN weights": weights(lambda array: np.full_like(array, NAN)),
    "infinite weights": weights(lambda array: np.full_like(array, INF)),
    "one NaN": weights(lambda array: np.where(np.arange(array.size).reshape(array.shape) == 0, NAN, array)),
    "weights of 1e30": weights(lambda array: np.full_like(array, 1e30)),
    "weights of -1e30": weights(lambda array: np.full_like(array, -1e30)),
    "float64 beyond float32": weights(lambda array: np.full(array.shape, 1e300)),
    "counters at their maximum": weights(lambda array: np.full_like(array, np.iinfo(array.dtype).max), "i"),
    "counters at their minimum": weights(lambda array: np.full_like(array, np.iinfo(array.dtype).min), "i"),
    # arrays: types
    "text": _of("U3"),
    "bytes": _of("S3"),
    "bool": _of(bool),
    "int8": _of(np.int8),
    "int64 at its maximum": weights(lambda array: np.full(array.shape, np.iinfo(np.int64).max)),
    "uint8": _of(np.uint8),
    "complex": _of(np.complex64),
    "dates": _of("datetime64[s]"),
    "durations": _of("timedelta64[s]"),
    "structs": _of([("a", "f4"), ("b", "i4")]),
    "long doubles": _of(np.longdouble),
    "counters as floats": weights(lambda array: array.astype(np.float32), "i"),
    # arrays: shapes and names
    "another shape": weights(lambda array: np.zeros((*array.shape, 2), array.dtype)),
    "flat": weights(lambda array: array.reshape(1, -1)),
    "no array": named(lambda table: {}),
    "an array too few": named(lambda table: dict(list(table.items())[1:])),
    "an array too many": named(lambda table: {**table, "extra": next(iter(table.values()))}),
    "another name": named(lambda table: {f"{name}\x1b[31m": array for name, array in table.items()}),
    "100,000 names": named(lambda table: {**table, **dict.fromkeys(map(str, range(100_000)), _EMPTY)}),
    # arrays: encodings
    "truncated": encoded(lambda old: Array(old.dtype, old.shape, old.stype, old.data[:-1])),
    "too long": encoded(lambda old: Array(old.dtype, old.shape, old.stype, old.data + b"\0")),
    "100 MB for one array": encoded(lambda old: Array(old.dtype, old.shape, old.stype, old.data + bytes(10**8))),
    "empty bytes": encoded(_bytes(b"")),
    "garbage": encoded(_bytes(b"\xff" * 200)),
    "npz": encoded(_bytes(_npz())),
    "pickle": encoded(_bytes(b"\x80\x04cos\nabort\n(tR.")),
    "header of code": encoded(_bytes(_EVIL_HEADER)),
    "header of objects": encoded(_bytes(_header((1,), "|O"))),
    "header says 3 GB": encoded(_bytes(_header((800_000_000,)))),
    "header says 1 PB": encoded(_bytes(_header((2**48,)))),
    "header says a negative length": encoded(_bytes(_header((-1,)))),
    "an unknown npy version": encoded(_bytes(b"\x93NUMPY\x09\x00" + bytes(100))),
    "another serialisation": encoded(lambda old: Array(old.dtype, old.shape, "torch.tensor", old.data)),
    "half precision beyond it": weights(lambda array: np.full(array.shape, INF, np.float16)),
    "no dimension": weights(lambda array: np.zeros((), array.dtype)),
    "no length": weights(lambda array: np.zeros(0, array.dtype)),
    "values under each other's names": named(lambda table: dict(zip(table, reversed(table.values()), strict=True))),
    "an empty name": named(lambda table: {**table, "": next(iter(table.values()))}),
    "says another shape beside it": encoded(lambda old: Array(old.dtype, (10**9,), old.stype, old.data)),
    "says a negative shape beside it": encoded(lambda old: Array(old.dtype, (-1,), old.stype, old.data)),
    # records
    "no records": lambda _: RecordDict(),
    "no arrays record": without(ARRAYS),
    "no metrics record": without(METRICS),
    "no client record": without(CLIENT),
    "arrays twice": records(lambda table: {**table, "arrays2": table[ARRAYS]}),
    "metrics twice": records(lambda table: {**table, "metrics2": table[METRICS]}),
    "arrays are metrics": records(lambda table: {**table, ARRAYS: table[METRICS]}),
    "metrics are arrays": records(lambda table: {**table, METRICS: table[ARRAYS]}),
    "metrics are settings": records(lambda table: {**table, METRICS: table[CLIENT]}),
    "its report is arrays": records(lambda table: {**table, CLIENT: table[ARRAYS]}),
    "an extra record": records(lambda table: {**table, "x" * 10_000: ConfigRecord({"a": 1})}),
    # metrics
    "no metrics": records(lambda table: {**table, METRICS: MetricRecord()}),
    "no num-examples": metric(num_examples=None),
    "num-examples 0": metric(num_examples=0),
    "num-examples negative": metric(num_examples=-20),
    "num-examples 1e9": metric(num_examples=10**9),
    "num-examples 2^62": metric(num_examples=2**62),
    "num-examples 1e30": metric(num_examples=1e30),
    "num-examples 1e308": metric(num_examples=1e308),
    "num-examples NaN": metric(num_examples=NAN),
    "num-examples infinite": metric(num_examples=INF),
    "num-examples a fraction": metric(num_examples=0.5),
    "num-examples a list": metric(num_examples=[1, 2]),
    "an extra metric": metric(surprise=1.0),
    "100,000 metrics": metric(**{f"m{number}": 1.0 for number in range(100_000)}),
    "num-examples of 100 bits": metric(num_examples=10**30),
    "num-examples with a point": metric(num_examples=20.0),
    "a metric without a name": metric(**{"": 1.0}),
    "a metric's name of 1 MB": metric(**{"k" * 10**6: 1.0}),
    "a metric's name that reorders text": metric(**{"m\N{RIGHT-TO-LEFT OVERRIDE}": 1.0}),
    "no loss": metric(train_loss=None),
    "loss NaN": metric(train_loss=NAN),
    "loss 1e308": metric(train_loss=1e308),
    "loss a list": metric(train_loss=[1.0]),
    "loss an empty list": metric(train_loss=[]),
    "accuracy of 7": metric(train_accuracy=7.0),
    "accuracy negative": metric(train_accuracy=-0.1),
    # what it says of itself
    "partition is text": report(partition="0"),
    "partition is NaN": report(partition=NAN),
    "partition is a list": report(partition=[0]),
    "partition is bytes": report(partition=b"0"),
    "no partition": report(partition=None),
    "another client's partition": report(partition=0),
    "partition -1": report(partition=-1),
    "partition is true": report(partition=True),
    "partition of 64 bits": report(partition=2**63),
    "a word without a name": report(**{"": "x"}),
    "an empty error": report(error=""),
    "a note that is NaN": report(**{"note.x": NAN}),
    "a note in text": report(**{"note.x": "much"}),
    "a note without a name": report(**{"note.": 1.0}),
    "a note's name of escapes": report(**{"note.\x1b[2J": 1.0}),
    "a defence without a name": report(defence=""),
    "a round of its choice": report(round=1),
    "an error of its choice": report(error="client 0 failed"),
    "an integer for an error": report(error=5),
    "a defence of 1 MB": report(defence="x" * 10**6),
    "a defence of markup": report(defence="<script>alert(1)</script>"),
    "a defence of escapes": report(defence="\x1b[2J\x1b]0;owned\x07"),
    "a defence that is a number": report(defence=3),
    "a defence that is bytes": report(defence=b"none"),
    "100,000 words": report(**{f"w{number}": "x" for number in range(100_000)}),
    "central noise of its own": report(central_noise_multiplier=9.0, central_delta=1e-9),
    "an epsilon of its own": report(epsilon=0.1),
    "half of a report on privacy": report(dp_noise_multiplier=1.0, dp_steps=3.0),
    "privacy in text": report(**{**DP, "dp_noise_multiplier": "much"}),
    "noise NaN": report(**{**DP, "dp_noise_multiplier": NAN}),
    "noise negative": report(**{**DP, "dp_noise_multiplier": -1.0}),
    "noise infinite": report(**{**DP, "dp_noise_multiplier": INF}),
    "sample rate negative": report(**{**DP, "dp_sample_rate": -0.1}),
    "sample rate tiny": report(**{**DP, "dp_sample_rate": 1e-300}),
    "sample rate 0": report(**{**DP, "dp_sample_rate": 0.0}),
    "sample rate 2": report(**{**DP, "dp_sample_rate": 2.0}),
    "steps of 1e18": report(**{**DP, "dp_steps": 1e18}),
    "steps a fraction": report(**{**DP, "dp_steps": 0.5}),
    "delta 0": report(**{**DP, "delta": 0.0}),
    "delta 1": report(**{**DP, "delta": 1.0}),
    "epsilon NaN": report(**{**DP, "epsilon_round": NAN}),
    "epsilon negative": report(**{**DP, "epsilon_round": -1.0}),
}
_EMPTY = Array(np.zeros(0, np.float32))


def _written(write: Callable[[io.BytesIO, np.ndarray[Any, Any]], None]) -> Change:
    """Encode the first array in another way."""

    def change(old: Array) -> Array:
        stream = io.BytesIO()
        write(stream, np.load(io.BytesIO(old.data)))
        return Array(old.dtype, old.shape, old.stype, stream.getvalue())

    return encoded(change)


def _by_columns(stream: io.BytesIO, array: np.ndarray[Any, Any]) -> None:
    np.lib.format.write_array(stream, np.asfortranarray(array))


# Unusual, and the same values.
EQUAL: dict[str, Change] = {
    "another order": named(lambda table: dict(reversed(table.items()))),
    "other bytes first": weights(lambda array: array.astype(">f4")),
    "counters' other bytes first": weights(lambda array: array.astype(">i8"), "i"),
    "double precision": weights(lambda array: array.astype(np.float64)),
    "by columns": _written(_by_columns),
    "version 2 of the format": _written(lambda stream, array: np.lib.format.write_array(stream, array, (2, 0))),
    "version 3 of the format": _written(lambda stream, array: np.lib.format.write_array(stream, array, (3, 0))),
}

EVALUATE: dict[str, Change] = {
    "no records": lambda _: RecordDict(),
    "no metrics record": without(METRICS),
    "no metrics": records(lambda table: {**table, METRICS: MetricRecord()}),
    "another key": metric(eval_loss=None, loss=1.0),
    "weights that cancel": metric(num_examples=-30),
    "num-examples NaN": metric(num_examples=NAN),
    "num-examples a list": metric(num_examples=[3]),
    "loss infinite": metric(eval_loss=INF),
    "accuracy a list": metric(eval_accuracy=[0.5]),
    "arrays nobody asked for": records(lambda table: {**table, ARRAYS: ArrayRecord({"w": _EMPTY})}),
    "another client's partition": report(partition=0),
    "words nobody asked for": report(defence="none"),
}

WHO: dict[str, Change] = {
    "a list": report(partition=[1]),
    "text": report(partition="two"),
    "NaN": report(partition=NAN),
    "a fraction": report(partition=3.7),
    "-1": report(partition=-1),
    "999": report(partition=999),
    "bytes": report(partition=b"\x00"),
    "nothing": lambda _: RecordDict(),
    "no partition": report(partition=None),
    "more than was asked": report(role="malicious"),
    "metrics": records(lambda _: {CLIENT: MetricRecord({"partition": 2})}),
}
