"""InstanceNorm that keeps the layout of its images on CUDA.

PyTorch computes it there as BatchNorm of [1, N C, H, W], for which cuDNN needs every channel's pixels side by side: two
copies of the features and a slow kernel, a third of a critic's step (docs/attacks.md, "Speed").
"""

import torch
from torch import Tensor, nn


class InstanceNorm2d(nn.InstanceNorm2d):
    """``torch.nn.InstanceNorm2d`` with its affine weights and without running statistics; on the CPU bit for bit."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True)

    def forward(self, features: Tensor) -> Tensor:
        """Normalise every channel of every image of ``features`` [N, C, H, W]; same shape and layout."""
        if features.device.type == "cpu":
            return super().forward(features)
        return keeping_layout(features, self.weight, self.bias, self.eps)


def keeping_layout(features: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return ``features`` [N, C, H, W] normalised over (H, W), times ``weight`` [C], plus ``bias`` [C]."""
    variance, mean = torch.var_mean(features, (2, 3), correction=0, keepdim=True)
    scale = weight.view(1, -1, 1, 1) * (variance + eps).rsqrt()
    return torch.addcmul(bias.view(1, -1, 1, 1) - mean * scale, features, scale)
