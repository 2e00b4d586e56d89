"""Our networks the way public code has them: what the plain loops of the speed scripts run."""

from typing import TypeVar

import torch
from torch import nn

from attacker.priors.instance_norm import InstanceNorm2d
from fedinverse.models.image_layers import ImageConv2d, ImageConvTranspose2d, WholeConv2d

M = TypeVar("M", bound=nn.Module)


def plain_network(network: M) -> M:
    """Return ``network``, changed in place: NCHW, PyTorch's own convolutions, LeakyReLU before the pooling."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, ImageConv2d | ImageConvTranspose2d | WholeConv2d):
                kind = nn.ConvTranspose2d if isinstance(child, ImageConvTranspose2d) else nn.Conv2d
                layer = kind.__new__(kind)
                layer.__dict__ = dict(child.__dict__)
                setattr(module, name, layer)
            if isinstance(child, InstanceNorm2d):
                norm = nn.InstanceNorm2d(child.num_features, affine=True)
                norm.load_state_dict(child.state_dict())
                setattr(module, name, norm)
        if isinstance(module, nn.Sequential):
            for index in range(len(module) - 1):
                pooling, slope = module[index], module[index + 1]
                if isinstance(pooling, nn.MaxPool2d) and isinstance(slope, nn.LeakyReLU):
                    module[index], module[index + 1] = slope, pooling
    return network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload, no-any-return]
