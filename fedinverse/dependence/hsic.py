"""HSIC of two kernel matrices [m, m] of the same m samples: ridge-normalised (BiDO's), biased, unbiased."""

import torch
from torch import Tensor

EPS = 1e-5  # ridge per sample of the published code


def centre(kernel: Tensor) -> Tensor:
    """Return H K H, H = I - 11'/m, of symmetric ``kernel`` [..., m, m]: row and column means, O(m^2)."""
    rows = kernel.mean(-1, keepdim=True)
    return kernel - rows - kernel.mean(-2, keepdim=True) + rows.mean(-2, keepdim=True)


def ridge_inverse(centred: Tensor, ridge: float) -> Tensor:
    """Return (K_c + ridge I)^-1 of ``centred`` [..., m, m], one batched Cholesky factorisation.

    A batch with NaN gives NaN: no exception and no wait for the device; training reports it as divergence.
    """
    eye = torch.eye(centred.shape[-1], dtype=centred.dtype, device=centred.device)
    factor, _ = torch.linalg.cholesky_ex(centred + ridge * eye)
    inverse: Tensor = torch.cholesky_inverse(factor)
    return inverse


def ridge_hsic(first: Tensor, second: Tensor, eps: float = EPS) -> Tensor:
    """Return Tr(R_X R_Y), R = K_c (K_c + r I)^-1, r = eps m: what BiDO and FedInverse call "HSIC".

    Args:
        first: kernel matrix [m, m].
        second: kernel matrix [m, m].
        eps: ridge per sample.

    Returns:
        Scalar in [0, m - 1].
    """
    m = len(first)
    ridge = eps * m
    a, b = ridge_inverse(centre(torch.stack([first, second])), ridge)
    # R = I - r A, hence the trace without forming R.
    value: Tensor = m - ridge * (a.trace() + b.trace()) + ridge**2 * (a * b).sum()
    return value


def biased_hsic(first: Tensor, second: Tensor) -> Tensor:
    """Return tr(K H L H) / (m - 1)^2 of kernel matrices [m, m] (Gretton et al. 2005), at least 0."""
    trace = torch.sum(centre(first) * second)
    return trace.div((len(first) - 1) ** 2)


def unbiased_hsic(first: Tensor, second: Tensor) -> Tensor:
    """Return the unbiased estimate of HSIC of kernel matrices [m, m] (Song et al. 2012); may be negative.

    Raises:
        ValueError: fewer than four samples.
    """
    m = len(first)
    if m < 4:
        raise ValueError(f"the unbiased HSIC needs at least 4 samples, got {m}")
    k, l = (kernel - torch.diag(kernel.diagonal()) for kernel in (first, second))  # noqa: E741 - the paper's K, L
    total = (k * l).sum() + k.sum() * l.sum() / ((m - 1) * (m - 2)) - 2 / (m - 2) * (k.sum(0) @ l.sum(0))
    return total / (m * (m - 3))
