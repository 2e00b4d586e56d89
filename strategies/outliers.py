"""Updates that are far longer than the others': a broken or hostile client can otherwise end a federation in a round.

This finds what is grossly wrong (weights of 1e30), not a clever attack; robust strategies are for that. An honest
client whose defence puts noise on its update may be much longer than one without: the limit is the server's to set.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedinverse.messages import Weights

_PIECE = 1 << 15  # values
_ENOUGH = 3  # updates whose median says how long one is


def far_off(norms: Mapping[int, float], before: Weights, limit: float) -> dict[int, str]:
    """Return why the update of a partition is to be refused, for those that are.

    The L2 norm of an update is held against ``limit`` times the median of the round. Of fewer than three updates, or
    where the median is zero, the norm of the model itself is the measure.

    Args:
        norms: ``length`` of every client's update, by partition.
        before: the weights they were sent.
        limit: a multiple; 0: nobody is refused.
    """
    if limit <= 0 or not norms:
        return {}
    measure, name = (float(np.median(list(norms.values()))), "median") if len(norms) >= _ENOUGH else (0.0, "")
    if measure == 0:
        measure, name = length(before, {}) or 1.0, "global model's norm"
    return {
        partition: f"its update is {norm:.3g} long, more than {limit:g} times the {name} {measure:.3g} "
        "(federation.max_update_norm)"
        for partition, norm in norms.items()
        if norm > limit * measure
    }


def length(weights: Weights, before: Weights) -> float:
    """Return the L2 norm ``||weights - before||`` over all float arrays; what ``before`` lacks counts whole.

    In single precision, where the weights have no more: it is held against a multiple of the others'. Beyond 1e19 it is
    infinite.
    """
    total = 0.0
    with np.errstate(over="ignore"):
        for name, array in weights.items():
            if array.dtype.kind == "f":
                total += _square(array.ravel(), before[name].ravel() if name in before else None)
    return math.sqrt(total)


def _square(now: NDArray[Any], then: NDArray[Any] | None) -> float:
    """Return ``||now - then||^2`` of flat arrays, in pieces that stay in a processor's cache."""
    total = 0.0
    for start in range(0, len(now), _PIECE):
        step = now[start : start + _PIECE]
        if then is not None:
            step = step - then[start : start + _PIECE]
        step = step.astype(np.promote_types(step.dtype, np.float32), copy=False)
        total += float(step @ step)
    return total
