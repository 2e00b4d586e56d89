"""The measures with the numerics of the published BiDO code, for parity runs only.

Everything is in the batch's own precision. HSIC's kernel matrices are centred on one side (K H) and the inverse is of
that non-symmetric matrix: in float64 it equals ``hsic.ridge_hsic``; in float32 its gradient is unreliable (measured
0.4 % to 1000 % off), which is why it is not the default. COCO's are centred on both sides (H K H).
"""

import torch
from torch import Tensor

from fedinverse.dependence.hsic import EPS
from fedinverse.dependence.kernels import Kernel, Sigma, bandwidth


def one_sided(batch: Tensor, kernel: Kernel, sigma: Sigma) -> Tensor:
    """Return K H, [m, m], of ``batch`` [m, ...]."""
    rows = batch.flatten(1)
    m = len(rows)
    products = rows @ rows.T
    if kernel == "linear":
        matrix = products
    else:
        norms = rows.square().sum(1)
        distances = (norms[:, None] - 2 * products + norms[None, :]).abs()
        if kernel == "imq":
            matrix = torch.rsqrt(distances + 1)
        else:
            matrix = torch.exp(-distances / (2 * bandwidth(distances, rows.shape[1], sigma)))
    centring = torch.eye(m, dtype=rows.dtype, device=rows.device) - 1 / m
    return matrix @ centring


def ridge_hsic(
    first: Tensor,
    second: Tensor,
    kernels: tuple[Kernel, Kernel] = ("gaussian", "gaussian"),
    sigma: Sigma = 5.0,
    eps: float = EPS,
) -> Tensor:
    """Return Tr(R_X R_Y), R = K H (K H + eps m I)^-1, of batches [m, ...]."""
    ridge = eps * len(first) * torch.eye(len(first), dtype=first.dtype, device=first.device)
    r_x, r_y = (
        centred @ torch.linalg.inv(centred + ridge)
        for centred in (one_sided(batch, kernel, sigma) for batch, kernel in zip((first, second), kernels, strict=True))
    )
    return torch.sum(r_x * r_y.T)


def coco(
    first: Tensor,
    second: Tensor,
    kernels: tuple[Kernel, Kernel] = ("gaussian", "gaussian"),
    sigma: Sigma = 5.0,
) -> Tensor:
    """Return sqrt(||H K H H L H||_F) / m of batches [m, ...]."""
    k, l = (  # noqa: E741 - the paper's K, L
        one_sided(batch, kernel, sigma) for batch, kernel in zip((first, second), kernels, strict=True)
    )
    norm: Tensor = torch.linalg.norm((k - k.mean(0)) @ (l - l.mean(0)))  # H from the left, too
    return norm.sqrt().div(len(first))
