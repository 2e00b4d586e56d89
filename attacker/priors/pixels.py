"""No prior at all: images are the sigmoid of independent normal numbers. For attacks that have no public images."""

from math import prod

import torch
from torch import Tensor, nn

from attacker.priors.prior import PriorTrainer, Training
from fedinverse.config import Section


class PixelsSettings(Section):
    """Nothing to set."""


class PixelGenerator(nn.Module):
    """z [N, C H W] -> images [N, C, H, W] in (0, 1)."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape, self.latent = shape, prod(shape)

    def forward(self, z: Tensor) -> Tensor:
        """Return one image per row of ``z``."""
        images = torch.sigmoid(z).view(len(z), *self.shape)
        return images.contiguous(memory_format=torch.channels_last)


class Pixels(PriorTrainer):
    """Trains nothing and keeps nothing."""

    name = "pixels"
    version = 1
    kept = ()
    settings: PixelsSettings

    def networks(self, shape: tuple[int, int, int], classes: int) -> nn.ModuleDict:
        """Return the generator."""
        del classes
        return nn.ModuleDict({"generator": PixelGenerator(shape)})

    def train(self, nets: nn.ModuleDict, data: Training) -> None:
        """Do nothing."""
