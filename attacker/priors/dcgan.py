"""DCGAN generator and critic of the inversion papers (attacks spec, "Priors"), 32x32 grey or 64x64 colour.

G64: Linear 100 -> 512x4x4, then 5x5 stride-2 deconvolutions 512-256-128-64-3. D64: 5x5 stride-2 convolutions
3-64-128-256-512, then 4x4 -> 1, with affine InstanceNorm from the second on (never BatchNorm under a gradient penalty).
The 32-pixel pair starts one stage later. ``width`` multiplies every hidden width.
"""

import itertools

import torch
from torch import Tensor, nn

from attacker.priors.instance_norm import InstanceNorm2d
from attacker.priors.prior import LATENT
from fedinverse.errors import ConfigError
from fedinverse.models.classifier import scaled
from fedinverse.models.image_layers import ImageConv2d, ImageConvTranspose2d


def stages(shape: tuple[int, int, int], width: float) -> list[int]:
    """Return the hidden widths from 4x4 up to half the image size: [256, 128, 64] at 32 pixels, width 1."""
    channels, height, side = shape
    if height != side or side not in (32, 64, 128):
        raise ConfigError(f"DCGAN priors make square images of 32, 64 or 128 pixels, not {channels}x{height}x{side}")
    doublings = side.bit_length() - 3  # 32: 3, 64: 4
    return [scaled(64 * 2**power, width) for power in reversed(range(doublings))]


class Generator(nn.Module):
    """z [N, 100] -> images [N, C, H, W] in (0, 1)."""

    def __init__(self, shape: tuple[int, int, int], width: float = 1.0) -> None:
        super().__init__()
        widths = stages(shape, width)
        self.first = widths[0]
        self.project = nn.Sequential(
            nn.Linear(LATENT, widths[0] * 16, bias=False), nn.BatchNorm1d(widths[0] * 16), nn.ReLU()
        )
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [
                nn.ConvTranspose2d(fan_in, fan_out, 5, 2, 2, output_padding=1, bias=False),
                nn.BatchNorm2d(fan_out),
                nn.ReLU(),
            ]
        layers += [ImageConvTranspose2d(widths[-1], shape[0], 5, 2, 2, output_padding=1), nn.Sigmoid()]
        self.deconvolve = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Generate one image per row of ``z``."""
        images: Tensor = self.deconvolve(self.begin(z))
        return images

    def begin(self, z: Tensor) -> Tensor:
        """Return the features of level 0, [N, width, 4, 4], of ``z``."""
        hidden = self.project(z).view(len(z), self.first, 4, 4)
        return hidden.contiguous(memory_format=torch.channels_last)  # type: ignore[no-any-return]

    @property
    def paint(self) -> nn.Module:
        """The last layer with weights: features to pixels."""
        return self.deconvolve[-2]

    @property
    def levels(self) -> int:
        """How many levels of features there are before the image; each doubles the size of the one before."""
        return len(self.deconvolve) // 3 + 1

    def advance(self, features: Tensor, level: int) -> Tensor:
        """Return the features of ``level`` + 1 from those of ``level``."""
        return self.deconvolve[3 * level : 3 * level + 3](features)  # type: ignore[no-any-return]

    def finish(self, features: Tensor, level: int) -> Tensor:
        """Return the images [N, C, H, W] that the features of ``level`` become."""
        return self.deconvolve[3 * level :](features)  # type: ignore[no-any-return]


class Critic(nn.Module):
    """images [N, C, H, W] -> realness [N]."""

    def __init__(self, shape: tuple[int, int, int], width: float = 1.0) -> None:
        super().__init__()
        widths = stages(shape, width)[::-1]
        layers: list[nn.Module] = [ImageConv2d(shape[0], widths[0], 5, 2, 2), nn.LeakyReLU(0.2)]
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [
                nn.Conv2d(fan_in, fan_out, 5, 2, 2),
                InstanceNorm2d(fan_out),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4))

    def forward(self, images: Tensor) -> Tensor:
        """Score every image."""
        return self.layers(images).flatten()  # type: ignore[no-any-return]
