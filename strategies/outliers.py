"""Updates that are far longer than the others': a broken or hostile client can otherwise end a federation in a round.

This finds what is grossly wrong (weights of 1e30), not a clever attack; robust strategies are for that. An honest
client whose defence puts noise on its update may be much longer than one without: the limit is the server's to set.
"""

from collections.abc import Mapping

import numpy as np

from fedinverse.messages import Weights
from fedinverse.norms import length

_ENOUGH = 3  # updates whose median says how long one is


def far_off(norms: Mapping[int, float], before: Weights, limit: float) -> dict[int, str]:
    """Return why the update of a partition is to be refused, for those that are.

    The L2 norm of an update is held against ``limit`` times the median of the round. Of fewer than three updates, or
    where the median is zero, the norm of the model itself is the measure.

    Args:
        norms: the length of every client's update, by partition.
        before: the weights they were sent.
        limit: a multiple; 0: nobody is refused.
    """
    if limit <= 0 or not norms:
        return {}
    measure, name = (float(np.median(list(norms.values()))), "median") if len(norms) >= _ENOUGH else (0.0, "")
    if measure == 0:
        measure, name = length(before) or 1.0, "global model's norm"
    return {
        partition: f"its update is {norm:.3g} long, more than {limit:g} times the {name} {measure:.3g} "
        "(federation.max_update_norm)"
        for partition, norm in norms.items()
        if norm > limit * measure
    }
