"""What a server can see of single updates, and which of them a robust rule would have dropped: ``updates.jsonl``.

One line per client and round, of the update u = after - before over all floating-point arrays:

``norm``       L2 length; ``z``: less the others' mean length, in units of their standard deviation.
``cosine``     with the mean of the others' updates.
``krum``       place by Krum's score, 1 the most trusted (Blanchard et al. 2017, one hostile client assumed);
               ``of``: how many; ``krum-drops``: whether Multi-Krum without the last place leaves it out.
``trimmed``    share of its coordinates that a mean trimmed by a tenth on each side (one client at least) leaves out;
               ``trimmed-drops``: more than half of them.
``median-drops``  its distance to the coordinate-wise median is more than three (scaled) median absolute deviations
               beyond the round's usual distance: a server that takes medians would take hardly anything from it.

What is not defined for so few updates is null. Nothing is dropped here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedinverse.messages import Weights
from fedinverse.storage import append_jsonl

Floats = NDArray[np.float64]
HOSTILE = 1  # clients that Krum expects to be hostile
TRIM = 0.1
_SCALE = 1.4826  # from a median absolute deviation to a standard deviation, of normal numbers


def note_updates(directory: Path, server_round: int, updates: Mapping[int, Weights], before: Weights) -> None:
    """Append the lines of a round to ``updates.jsonl`` in ``directory``.

    Args:
        updates: the weights of every client after training, by partition.
    """
    partitions = sorted(updates)
    if not partitions:
        return
    lines = seen(np.stack([_flat(updates[partition], before) for partition in partitions]))
    append_jsonl(
        directory / "updates.jsonl",
        *[{"round": server_round, "partition": p, **line} for p, line in zip(partitions, lines, strict=True)],
    )


def seen(steps: Floats) -> list[dict[str, Any]]:
    """Return what can be seen of the updates ``steps`` [n, d], one entry each."""
    count = len(steps)
    gram = steps @ steps.T
    norms = np.sqrt(np.diag(gram))
    places, trimmed = _krum(gram), _trimmed(steps)
    far = _far_from_median(steps)
    lines = []
    for one in range(count):
        others = [other for other in range(count) if other != one]
        z = cosine = None
        if len(others) >= 2 and norms[others].std(ddof=1) > 0:
            z = float((norms[one] - norms[others].mean()) / norms[others].std(ddof=1))
        length = np.sqrt(gram[np.ix_(others, others)].sum()) if others else 0.0
        if norms[one] > 0 and length > 0:
            cosine = float(gram[one, others].sum() / (norms[one] * length))
        lines.append(
            {
                "norm": float(norms[one]),
                "z": z,
                "cosine": cosine,
                "krum": None if places is None else int(places[one]),
                "of": count,
                "krum-drops": None if places is None else bool(places[one] > count - HOSTILE),
                "trimmed": None if trimmed is None else float(trimmed[one]),
                "trimmed-drops": None if trimmed is None else bool(trimmed[one] > 0.5),
                "median-drops": None if far is None else bool(far[one]),
            }
        )
    return lines


def _flat(weights: Weights, before: Weights) -> Floats:
    parts = [
        (np.asarray(array, np.float64) - before[name]).ravel()
        for name, array in weights.items()
        if np.issubdtype(array.dtype, np.floating)
    ]
    return np.concatenate(parts)


def _krum(gram: Floats) -> NDArray[np.int64] | None:
    """Return the place of every update by Krum's score, from 1; None: fewer than 2 f + 3."""
    count = len(gram)
    if count < 2 * HOSTILE + 3:
        return None
    squares = np.diag(gram)
    apart = np.sort(np.clip(squares[:, None] + squares[None] - 2 * gram, 0, None), axis=1)
    scores = apart[:, 1 : count - HOSTILE - 1].sum(1)  # itself, at 0, comes first
    places: NDArray[np.int64] = scores.argsort(kind="stable").argsort(kind="stable") + 1
    return places


def _trimmed(steps: Floats) -> Floats | None:
    """Return the share of coordinates of every update that a trimmed mean leaves out; None: it would leave none."""
    count = len(steps)
    cut = max(1, int(TRIM * count))
    if count <= 2 * cut:
        return None
    places = steps.argsort(0, kind="stable").argsort(0, kind="stable")
    left_out: Floats = ((places < cut) | (places >= count - cut)).mean(1)
    return left_out


def _far_from_median(steps: Floats) -> NDArray[np.bool_] | None:
    """Return which updates lie unusually far from the coordinate-wise median; None: fewer than three updates."""
    if len(steps) < 3:
        return None
    distances = np.sqrt(np.square(steps - np.median(steps, axis=0)).sum(1))
    usual = np.median(distances)
    spread = _SCALE * np.median(np.abs(distances - usual))
    far: NDArray[np.bool_] = distances > usual + 3 * spread
    return far if spread > 0 else np.zeros(len(steps), bool)
