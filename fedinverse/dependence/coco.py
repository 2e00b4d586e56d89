"""Constrained covariance (COCO) of two kernel matrices [m, m] of the same m samples, K_c = H K H.

By definition (Gretton et al. 2005) COCO is sqrt(||K_c L_c||_2) / m with the spectral norm. The published
code of BiDO and FedInverse takes the Frobenius norm, which is never smaller. Both are here, named apart.
"""

import torch
from torch import Tensor

from fedinverse.dependence.hsic import centre

TINY = 1e-30  # under the root: its slope at 0 is infinite, and a batch of one class has L_c = 0


def frobenius(product: Tensor) -> Tensor:
    """Return sqrt(||P||_F) / m of ``product`` [..., m, m]; the gradient at P = 0 is 0."""
    squared = product.square().sum((-2, -1)).clamp_min(TINY**2)
    return squared.pow(0.25).div(product.shape[-1])


def spectral(product: Tensor) -> Tensor:
    """Return sqrt(||P||_2) / m of ``product`` [..., m, m]; the gradient at P = 0 is 0."""
    largest: Tensor = torch.linalg.matrix_norm(product, 2)
    return largest.clamp_min(TINY).sqrt().div(product.shape[-1])


def coco_frobenius(first: Tensor, second: Tensor) -> Tensor:
    """Return sqrt(||K_c L_c||_F) / m of kernel matrices [m, m], the published "COCO"."""
    return frobenius(centre(first) @ centre(second))


def coco_spectral(first: Tensor, second: Tensor) -> Tensor:
    """Return sqrt(||K_c L_c||_2) / m of kernel matrices [m, m], COCO by its definition."""
    return spectral(centre(first) @ centre(second))
