"""How long weights, and changes of them, are: L2 norms, in single precision where the weights have no more."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PIECE = 1 << 15  # values


def length(weights: Mapping[str, NDArray[Any]]) -> float:
    """Return the L2 norm over all float arrays; beyond 1e19 it is infinite."""
    return math.sqrt(sum(square(array) for array in weights.values() if array.dtype.kind == "f"))


def square(now: NDArray[Any], then: NDArray[Any] | None = None) -> float:
    """Return ``||now - then||^2`` of float arrays of one shape, in pieces that stay in a processor's cache.

    It is finite only if all values are; one that is not may also be the square of numbers beyond 1e19.
    """
    total = 0.0
    flat, old = now.reshape(-1), None if then is None else then.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(flat), _PIECE):
            step = flat[start : start + _PIECE]
            if old is not None:
                step = step - old[start : start + _PIECE]
            step = step.astype(np.promote_types(step.dtype, np.float32), copy=False)
            total += float(step @ step)
    return total
