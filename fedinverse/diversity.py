"""How many different samples a set holds: the attacker asks it of what it makes, the auditor of what it is shown."""

import torch
import torch.nn.functional as F
from torch import Tensor


def vendi_score(features: Tensor) -> float:
    """Return the effective number of different rows of ``features`` [N, F], from 1 (all alike) to N (all orthogonal).

    exp of the entropy of the eigenvalues of K / N, K the cosine similarities (Friedman and Dieng 2023, TMLR). The
    non-zero eigenvalues are those of the smaller Gram matrix, N x N or F x F. Rows of zeros count as nothing.
    """
    rows = F.normalize(features.double(), dim=1)
    gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    shares = torch.linalg.eigvalsh(gram).clamp_min(0)
    shares = shares / shares.sum().clamp_min(1e-12)
    return float(torch.special.entr(shares).sum().exp())
