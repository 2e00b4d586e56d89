"""ResNet-18 (He et al., CVPR 2016) as torchvision builds it, with a stem for small images.

torchvision's stem (7x7 stride 2, max-pool) was made for 224 pixels and would leave 2x2 of 64. Here it is one
3x3 convolution, stride 2 at 64 pixels and 1 at 32, and no pooling: the stages see 32, 16, 8 and 4 pixels.
"""

import torch
from torch import Tensor, nn

from fedinverse.models.classifier import BlockClassifier, he_init, projection, register, scaled


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(fan_out),
            nn.ReLU(),
            nn.Conv2d(fan_out, fan_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(fan_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or fan_in != fan_out:
            self.shortcut = projection(fan_in, fan_out, stride)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return relu(residual + shortcut)."""
        return torch.relu(self.residual(hidden) + self.shortcut(hidden))


class ResNet18(BlockClassifier):
    """Stem; four stages of two basic blocks, 64 to 512 channels; mean; linear. Taps: the four stages."""

    def __init__(self, classes: int, width: float, stem_stride: int) -> None:
        super().__init__()
        a, b, c, d = (scaled(channels, width) for channels in (64, 128, 256, 512))
        stem = (nn.Conv2d(3, a, 3, stem_stride, 1, bias=False), nn.BatchNorm2d(a), nn.ReLU())
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(*stem, BasicBlock(a, a, 1), BasicBlock(a, a, 1)),
                nn.Sequential(BasicBlock(a, b, 2), BasicBlock(b, b, 1)),
                nn.Sequential(BasicBlock(b, c, 2), BasicBlock(c, c, 1)),
                nn.Sequential(BasicBlock(c, d, 2), BasicBlock(d, d, 1)),
            ]
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(d, classes)
        he_init(self)


@register("resnet18", (3, 64, 64), "He et al. 2016, torchvision's, stem for 64 pixels")
def resnet18(classes: int, width: float = 1.0) -> ResNet18:
    """Build the network for 64 pixels."""
    return ResNet18(classes, width, stem_stride=2)


@register("resnet18_32", (3, 32, 32), "He et al. 2016, torchvision's, stem for 32 pixels (CIFAR-10)")
def resnet18_32(classes: int, width: float = 1.0) -> ResNet18:
    """Build the network for 32 pixels."""
    return ResNet18(classes, width, stem_stride=1)
