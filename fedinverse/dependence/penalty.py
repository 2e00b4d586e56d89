"""The penalty of BiDO (Peng et al. 2022), sum_j [lambda_x d(X, Z_j) - lambda_y d(Z_j, Y)], made cheap.

The images' and labels' sides do not depend on the layer, so they are made once a batch; with d = HSIC the
two combine into one matrix M = lambda_x R_X - lambda_y R_Y and the penalty is sum_j <M, R_j>. A layer then
costs one product of its features forward, one backward, and a share of one batched Cholesky factorisation.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fedinverse.dependence.coco import frobenius, spectral
from fedinverse.dependence.hsic import EPS, centre, ridge_inverse
from fedinverse.dependence.kernels import Kernel, Sigma, bandwidth, gaussian, kernel_matrix, squared_distances

Norm = Literal["frobenius", "spectral"]


def _kernels(
    images: Tensor, labels: Tensor, taps: Sequence[Tensor], sigma: Sigma, label_kernel: Kernel
) -> tuple[Tensor, Tensor]:
    """Return the kernel matrix of Y, [1, m, m], and those of X and the taps, [1 + taps, m, m]."""
    batches = (images, *taps)
    distances = squared_distances(*batches)
    scale = torch.stack(
        [
            torch.as_tensor(bandwidth(squared, batch[0].numel(), sigma), dtype=squared.dtype, device=squared.device)
            for squared, batch in zip(distances, batches, strict=True)
        ]
    )
    of_labels = kernel_matrix(labels, label_kernel, sigma)[None]
    return of_labels, gaussian(distances, scale[:, None, None])


class _BilateralTrace(torch.autograd.Function):
    """sum_j Tr(M R_j), R = I - r A, A = (K_c + r I)^-1, of kernel matrices in the order Y; X, Z_1, Z_2 ..."""

    @staticmethod
    def forward(
        ctx: Any,
        of_labels: Tensor,
        others: Tensor,
        weights: tuple[float, float],
        ridge: float,
    ) -> Tensor:
        inverses = ridge_inverse(centre(torch.cat([of_labels, others])), ridge)
        a_y, a_x, a = inverses[0], inverses[1], inverses[2:]
        to_x, to_y = weights
        m = ridge * (to_y * a_y - to_x * a_x)
        m.diagonal().add_(to_x - to_y)  # M = lambda_x R_X - lambda_y R_Y
        ctx.save_for_backward(a, m)
        ctx.ridge = ridge
        return len(a) * m.trace() - ridge * torch.sum(m * a)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[None, Tensor, None, None]:
        # dA = -A dK_c A. A M A has zero row sums (M 1 = 0, A 1 = 1 / r): the gradient by K is the one by K_c.
        a, m = ctx.saved_tensors
        by_kernel = a.new_zeros((1 + len(a), *m.shape))
        torch.matmul(a @ (outer * ctx.ridge * m), a, out=by_kernel[1:])
        return None, by_kernel, None, None


def bilateral_hsic(
    images: Tensor,
    labels: Tensor,
    taps: Sequence[Tensor],
    *,
    lambda_x: float,
    lambda_y: float,
    sigma: Sigma = 5.0,
    label_kernel: Kernel = "linear",
    eps: float = EPS,
) -> Tensor:
    """Return sum_j [lambda_x HSIC(X, Z_j) - lambda_y HSIC(Z_j, Y)] with the ridge-normalised HSIC.

    Args:
        images: X, [m, C, H, W] in [0, 1]; not differentiated.
        labels: Y, one-hot [m, K]; not differentiated.
        taps: hidden representations Z_j, each [m, ...].
        lambda_x: weight of the dependence on the images, to be forgotten.
        lambda_y: weight of the dependence on the labels, to be kept.
        sigma: width of the gaussian kernels of X and Z, and of Y's if it is gaussian.
        label_kernel: kernel of Y.
        eps: ridge per sample.

    Returns:
        float32 scalar, differentiable once with respect to the taps.
    """
    with torch.autocast(images.device.type, enabled=False):
        of_labels, others = _kernels(images, labels, taps, sigma, label_kernel)
        total: Tensor = _BilateralTrace.apply(of_labels, others, (lambda_x, lambda_y), eps * len(images))
        return total.float()


def bilateral_coco(
    images: Tensor,
    labels: Tensor,
    taps: Sequence[Tensor],
    *,
    lambda_x: float,
    lambda_y: float,
    sigma: Sigma = 5.0,
    label_kernel: Kernel = "linear",
    norm: Norm = "frobenius",
) -> Tensor:
    """Return sum_j [lambda_x COCO(X, Z_j) - lambda_y COCO(Z_j, Y)]; otherwise as ``bilateral_hsic``.

    ``norm``: the published Frobenius norm or, by COCO's definition, the spectral one.
    """
    with torch.autocast(images.device.type, enabled=False):
        of_labels, others = _kernels(images, labels, taps, sigma, label_kernel)
        k_y, k_x, *k = centre(torch.cat([of_labels, others]))
        measure = frobenius if norm == "frobenius" else spectral
        products = torch.stack(k) @ torch.cat([k_x, k_y], 1)  # [taps, m, 2 m]
        to_x, to_y = (measure(product).sum() for product in products.chunk(2, -1))
        total: Tensor = lambda_x * to_x - lambda_y * to_y
        return total.float()
