"""How much one representation of a batch tells about another: HSIC, COCO, and BiDO's penalties built on them.

``kernels`` makes kernel matrices of a batch, ``hsic`` and ``coco`` measure two of them, ``penalty`` is the
fast form of the sums a defence adds to its loss, ``published`` the numerics of the published code, for
parity runs.
"""

from fedinverse.dependence.coco import coco_frobenius, coco_spectral
from fedinverse.dependence.hsic import biased_hsic, centre, ridge_hsic, unbiased_hsic
from fedinverse.dependence.kernels import Sigma, flat, kernel_matrix, squared_distances
from fedinverse.dependence.penalty import Norm, bilateral_coco, bilateral_hsic

__all__ = [
    "Norm",
    "Sigma",
    "biased_hsic",
    "bilateral_coco",
    "bilateral_hsic",
    "centre",
    "coco_frobenius",
    "coco_spectral",
    "flat",
    "kernel_matrix",
    "ridge_hsic",
    "squared_distances",
    "unbiased_hsic",
]
