"""How different the reconstructions of one class are: an attack that shows one picture five times shows one."""

import torch
from torch import Tensor

from auditor.metrics.distances import blocks
from auditor.omitted import Omitted
from fedinverse.diversity import vendi_score


def mean_pairwise_distance(features: Tensor) -> float | Omitted:
    """Return the mean Euclidean distance over pairs of different rows of ``features`` [N, F]; 0: all
    alike."""
    count = len(features)
    if count < 2:
        return Omitted(f"diversity needs two reconstructions, got {count}")
    total = torch.zeros((), dtype=torch.float64, device=features.device)
    for rows, apart in blocks(features, features):
        apart[torch.arange(len(apart)), torch.arange(rows.start, rows.stop)] = 0  # rounding leaves a little
        total += apart.sum()
    return float(total / (count * (count - 1)))


def effective_number(features: Tensor) -> float | Omitted:
    """Return the Vendi score of ``features`` [N, F], from 1 to N: how many different reconstructions there are."""
    count = len(features)
    if count < 2:
        return Omitted(f"diversity needs two reconstructions, got {count}")
    if not bool(features.any(1).all()):
        return Omitted("a reconstruction has no features (all are zero)")
    return vendi_score(features)
