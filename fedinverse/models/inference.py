"""Prepare a network for inference and for gradients by its images: eval, frozen, BatchNorm folded where exact."""

import copy
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from fedinverse.models.image_layers import LookConv2d

M = TypeVar("M", bound=nn.Module)


def for_inference(model: M, device: str | torch.device = "cpu") -> M:
    """Return a copy of ``model`` in eval mode on ``device``: frozen weights, BN folded, channels-last.

    Folding (Conv2d directly followed by BatchNorm2d, or Linear by BatchNorm1d, in an ``nn.Sequential``) is
    exact up to rounding because BN in eval mode is affine. BN *before* a padded convolution stays: the
    padding is not shifted by its bias, so folding would change the border. ``model`` itself stays
    bit-identical. Convolutions of the images get their fast gradient (``image_layers``).
    """
    ready = copy.deepcopy(model).eval().requires_grad_(False)
    for module in list(ready.modules()):
        if isinstance(module, nn.Sequential):
            _fold(module)
        for name, child in module.named_children():
            if type(child) is nn.Conv2d and (look := LookConv2d.of(child)) is not None:
                setattr(module, name, look)
    return ready.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _fold(layers: nn.Sequential) -> None:
    for index in range(len(layers) - 1):
        first, second = layers[index], layers[index + 1]
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
            layers[index] = fuse_conv_bn_eval(first, second)
            layers[index + 1] = nn.Identity()
        elif isinstance(first, nn.ConvTranspose2d) and isinstance(second, nn.BatchNorm2d):
            layers[index] = fuse_conv_bn_eval(first, second, transpose=True)
            layers[index + 1] = nn.Identity()
        elif isinstance(first, nn.Linear) and isinstance(second, nn.BatchNorm1d):
            layers[index] = fuse_linear_bn_eval(first, second)
            layers[index + 1] = nn.Identity()
