"""Kernel matrices of a batch: gaussian, linear, inverse multiquadric (IMQ); rules for the gaussian's width.

A batch of m samples enters as [m, ...]; its kernel matrix leaves as float64 [m, m]. The product over the
features runs in the batch's own precision (float32 at least) and is where the time goes; everything m x m
is float64, because the ridge of ``hsic`` divides by eps m.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Kernel = Literal["gaussian", "linear", "imq"]
Sigma = float | Literal["median", "median_paper"]
"""Width of the gaussian kernel: a number (BiDO: 5), or a rule that takes it from the batch: ``bandwidth``."""

SMALLEST_MEDIAN = 1e-2  # floor of the published rule


def flat(batch: Tensor) -> Tensor:
    """Return ``batch`` [m, ...] as [m, d] without copying; the order of the features is unspecified.

    A kernel sees features only through inner products: a channels-last image batch is read in its memory
    order.
    """
    if batch.dim() == 4 and batch.is_contiguous(memory_format=torch.channels_last):
        batch = batch.permute(0, 2, 3, 1)
    return batch.reshape(len(batch), -1)


def _at_least_float32(rows: Tensor) -> Tensor:
    return rows if rows.dtype == torch.float64 else rows.float()


class _SquaredDistances(torch.autograd.Function):
    """||z_a - z_b||^2 through the Gram matrix of the centred rows: one product forward, one backward.

    The products run one batch after the other, everything m x m at once.
    """

    @staticmethod
    def forward(ctx: Any, *batches: Tensor) -> Tensor:
        # Distances do not change by centring; the cancellation in n_a + n_b - 2 g_ab shrinks.
        centred = [rows - rows.mean(0) for rows in batches]
        gram = torch.stack([(rows @ rows.T).double() for rows in centred])
        gram = gram + gram.mT  # exactly symmetric, and the 2 of 2 g_ab
        norms = gram.diagonal(dim1=-2, dim2=-1) / 2
        ctx.save_for_backward(*centred)
        return (norms[:, :, None] + norms[:, None, :]).sub_(gram).clamp_min_(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        # W the gradient by the distances, S = W + W': dL/dz_a = 2 sum_b S_ab (z_a - z_b), a graph Laplacian.
        pairs = outer + outer.mT
        laplacians = 2 * (torch.diag_embed(pairs.sum(-1)) - pairs)
        return tuple(
            laplacian.to(rows.dtype) @ rows if wanted else None
            for laplacian, rows, wanted in zip(laplacians, ctx.saved_tensors, ctx.needs_input_grad, strict=True)
        )


def squared_distances(*batches: Tensor) -> Tensor:
    """Return ||z_a - z_b||^2 of every batch: float64 [number of batches, m, m], differentiable once.

    Args:
        batches: each [m, ...] with the same m.
    """
    with torch.autocast(batches[0].device.type, enabled=False):
        distances: Tensor = _SquaredDistances.apply(*(_at_least_float32(flat(batch)) for batch in batches))
        return distances


def bandwidth(distances: Tensor, features: int, sigma: Sigma) -> Tensor | float:
    """Return s of the gaussian kernel exp(-D / (2 s)); never differentiated.

    Args:
        distances: squared distances D, [m, m].
        features: number of features d of a sample.
        sigma: a number: s = sigma^2 d. ``median``: s is the median of D over pairs, the usual heuristic.
            ``median_paper``: s is its square, since the published code takes the median of *squared*
            distances for sigma itself (over the batch joined to itself, so that each sample's zero distance
            to its copy is counted), at least 1e-2, and leaves d out.
    """
    if not isinstance(sigma, str):
        return sigma * sigma * features
    squared = distances.detach()
    pairs = squared[~torch.eye(len(squared), dtype=torch.bool, device=squared.device)]
    if sigma == "median":
        median = pairs.quantile(0.5) if len(pairs) else squared.new_ones(())
        return torch.where(median > 0, median, torch.ones_like(median))  # all samples alike: any width gives K = 1
    doubled = torch.cat([squared.flatten(), pairs])
    median = doubled.quantile(0.5)
    return torch.where(median > 0, median, doubled.mean()).clamp_min(SMALLEST_MEDIAN).square()


def gaussian(distances: Tensor, scale: Tensor | float) -> Tensor:
    """Return exp(-D / (2 s)) of squared distances D [..., m, m]."""
    return torch.exp(distances / (-2 * scale))


def imq(distances: Tensor) -> Tensor:
    """Return the inverse multiquadric 1 / sqrt(D + 1) of squared distances D [..., m, m]."""
    return torch.rsqrt(distances + 1)


def linear(batch: Tensor) -> Tensor:
    """Return the inner products z_a . z_b, float64 [m, m], of ``batch`` [m, ...]."""
    with torch.autocast(batch.device.type, enabled=False):
        rows = _at_least_float32(flat(batch))
        return (rows @ rows.T).double()


def kernel_matrix(batch: Tensor, kernel: Kernel = "gaussian", sigma: Sigma = 5.0) -> Tensor:
    """Return the kernel matrix, float64 [m, m], of ``batch`` [m, ...]; ``sigma`` is the gaussian's alone."""
    if kernel == "linear":
        return linear(batch)
    distances = squared_distances(batch)[0]
    if kernel == "imq":
        return imq(distances)
    return gaussian(distances, bandwidth(distances, batch[0].numel(), sigma))
