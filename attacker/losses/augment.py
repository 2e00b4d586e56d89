"""Differentiable augmentations of reconstructions, for attacks that average their gradient over several views.

Small rotations, scalings, shifts and changes of brightness and contrast; images of colour are also mirrored (a mirrored
digit is another sign, a mirrored face is the same person). Averaging the identity loss over views takes from a
reconstruction what a target answers to only at one exact alignment, which is what defences like BiDO leave behind
(TAA in the attacks spec; PPA, Struppek et al. 2022, augments for the same reason).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

NUMBERS = 7  # uniform numbers that decide one view
_ANGLE = math.radians(12)
_SCALE = 0.1
_SHIFT = 0.1  # of half the image
_CONTRAST = 0.2
_BRIGHTNESS = 0.1


def augmented(images: Tensor, chance: Tensor) -> Tensor:
    """Return one view of every image.

    Args:
        images: [N, C, H, W] in [0, 1].
        chance: [N, 7] in [0, 1): what decides each view.

    Returns:
        Views [N, C, H, W] in [0, 1], channels-last, differentiable with respect to ``images``.
    """
    signed = 2 * chance - 1
    angle, scale = signed[:, 0] * _ANGLE, 1 + signed[:, 1] * _SCALE
    across, down = signed[:, 2] * _SHIFT, signed[:, 3] * _SHIFT
    mirror = torch.ones_like(angle)
    if images.shape[1] == 3:
        mirror = torch.where(chance[:, 6] < 0.5, -mirror, mirror)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    matrix = torch.stack([mirror * cos, -sin, across, mirror * sin, cos, down], 1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    contrast = (1 + signed[:, 4] * _CONTRAST)[:, None, None, None]
    brightness = (signed[:, 5] * _BRIGHTNESS)[:, None, None, None]
    # Brightness acts on what is not black or white already: a digit's ground stays black.
    toned = moved * contrast + brightness * 4 * moved * (1 - moved)
    return toned.clamp(0, 1).contiguous(memory_format=torch.channels_last)
