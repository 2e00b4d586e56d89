"""How different the reconstructions of one class are: an attack that shows one picture five times shows
one."""

import torch
import torch.nn.functional as F
from torch import Tensor

from auditor.distances import blocks
from auditor.omitted import Omitted


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


def vendi_score(features: Tensor) -> float | Omitted:
    """Return the effective number of different reconstructions in ``features`` [N, F], from 1 to N.

    exp of the entropy of the eigenvalues of K / N, K the cosine similarities (Friedman and Dieng 2023, TMLR).
    The non-zero eigenvalues are those of the smaller Gram matrix, N x N or F x F.
    """
    count = len(features)
    if count < 2:
        return Omitted(f"diversity needs two reconstructions, got {count}")
    rows = F.normalize(features.double(), dim=1)
    if not bool((rows.norm(dim=1) > 0.5).all()):
        return Omitted("a reconstruction has no features (all are zero)")
    gram = rows @ rows.T if count <= rows.shape[1] else rows.T @ rows
    shares = torch.linalg.eigvalsh(gram / count).clamp_min(0)
    return float(torch.exp(torch.special.entr(shares).sum()))
