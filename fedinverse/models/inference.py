"""Prepare a network for inference and for gradients by its images: eval, frozen, BatchNorm folded where exact."""

import copy
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

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
    # Folding and laying out anew copy most weights: those that neither has copied are copied at the end.
    shared = {id(weight): nn.Parameter(weight.detach(), requires_grad=False) for weight in model.parameters()}
    ready = copy.deepcopy(model, shared).eval()
    for module in list(ready.modules()):
        if isinstance(module, nn.Sequential):
            _fold(module)
        for name, child in module.named_children():
            if type(child) is nn.Conv2d and (look := ImageConv2d.of(child)) is not None:
                setattr(module, name, look)
    layout = getattr(model, "memory_format", torch.channels_last)
    ready = ready.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    places = {weight.data_ptr() for weight in model.parameters()}
    for weight in ready.parameters():
        if weight.data_ptr() in places:
            weight.data = weight.data.clone()
    return ready


def _fold(layers: nn.Sequential) -> None:
    for index in range(len(layers) - 1):
        first, second = layers[index], layers[index + 1]
        if not (_is_plain(first) and _is_plain(second)):
            continue
        if isinstance(first, nn.Conv2d | nn.ConvTranspose2d) and isinstance(second, nn.BatchNorm2d):
            transpose = isinstance(first, nn.ConvTranspose2d)
            fused = fuse_conv_bn_weights(first.weight, first.bias, *_affine(second), transpose)
        elif isinstance(first, nn.Linear) and isinstance(second, nn.BatchNorm1d):
            fused = fuse_linear_bn_weights(first.weight, first.bias, *_affine(second))
        else:
            continue
        first.weight, first.bias = fused
        layers[index + 1] = nn.Identity()


def _affine(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Any, Any, float, Any, Any]:
    """Return mean, variance, epsilon, weight and bias of a normalisation."""
    return norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias


def _is_plain(layer: nn.Module) -> bool:
    """Return whether ``layer`` computes what its class says, with running statistics if it is a normalisation."""
    plain = type(layer) in _FOLDED and not layer._forward_hooks and not layer._forward_pre_hooks
    return plain and getattr(layer, "running_mean", layer) is not None
