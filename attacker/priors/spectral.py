"""Spectral normalisation (Miyato et al. 2018) of every layer of a network, and the plain weights it amounts to."""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

_REFRESH = 20  # power iterations that bring averaged weights' largest singular values up to date


def _layers(net: nn.Module) -> dict[str, nn.Module]:
    kinds = nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding
    return {name: layer for name, layer in net.named_modules() if isinstance(layer, kinds)}


def normalise(net: nn.Module, free: nn.Module | None = None) -> None:
    """Put every weight of ``net`` but that of the layer ``free`` under spectral norm, in place."""
    for layer in _layers(net).values():
        if layer is not free:
            spectral_norm(layer)


@torch.no_grad()
def baked(net: nn.Module) -> dict[str, Tensor]:
    """Return the state of ``net`` without spectral norm: its weights are what they are divided by it."""
    net.train()  # reading a weight in train mode runs one power iteration
    state = {name: value for name, value in net.state_dict().items() if "parametrizations" not in name}
    for name, layer in _layers(net).items():
        for _ in range(_REFRESH):
            state[f"{name}.weight"] = layer.weight
    return state
