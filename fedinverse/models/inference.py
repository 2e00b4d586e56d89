"""Prepare a network for inference and for gradients by its images: eval, frozen, BatchNorm folded where exact."""

import copy
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from fedinverse.models.image_layers import ImageConv2d, ImageConvTranspose2d, WholeConv2d

M = TypeVar("M", bound=nn.Module)
_FOLDED = (nn.Conv2d, WholeConv2d, nn.ConvTranspose2d, ImageConvTranspose2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)


def for_inference(model: M, device: str | torch.device = "cpu") -> M:
    """Return a copy of ``model`` in eval mode on ``device``: frozen weights, BN folded, channels-last.

    Folding (Conv2d directly followed by BatchNorm2d, or Linear by BatchNorm1d, in an ``nn.Sequential``) is
    exact up to rounding because BN in eval mode is affine; layers that are changed by hooks, by parametrisations or by
    a forward of their own stay as they are. BN *before* a padded convolution stays: the
    padding is not shifted by its bias, so folding would change the border. ``model`` itself stays
    bit-identical. Convolutions of the images get their fast gradient (``image_layers``).
    """
    ready = copy.deepcopy(model).eval().requires_grad_(False)
    for module in list(ready.modules()):
        if isinstance(module, nn.Sequential):
            _fold(module)
        for name, child in module.named_children():
            if type(child) is nn.Conv2d and (look := ImageConv2d.of(child)) is not None:
                setattr(module, name, look)
    layout = getattr(model, "memory_format", torch.channels_last)
    return ready.to(device=device, memory_format=layout)  # type: ignore[call-overload, no-any-return]


def _fold(layers: nn.Sequential) -> None:
    for index in range(len(layers) - 1):
        first, second = layers[index], layers[index + 1]
        if not (_is_plain(first) and _is_plain(second)):
            continue
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
            layers[index] = fuse_conv_bn_eval(first, second)
            layers[index + 1] = nn.Identity()
        elif isinstance(first, nn.ConvTranspose2d) and isinstance(second, nn.BatchNorm2d):
            layers[index] = fuse_conv_bn_eval(first, second, transpose=True)
            layers[index + 1] = nn.Identity()
        elif isinstance(first, nn.Linear) and isinstance(second, nn.BatchNorm1d):
            layers[index] = fuse_linear_bn_eval(first, second)
            layers[index + 1] = nn.Identity()


def _is_plain(layer: nn.Module) -> bool:
    """Return whether ``layer`` computes what its class says, with running statistics if it is a normalisation."""
    plain = type(layer) in _FOLDED and not layer._forward_hooks and not layer._forward_pre_hooks
    return plain and getattr(layer, "running_mean", layer) is not None
