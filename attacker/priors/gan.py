"""What the GANs of the papers' priors share: settings, optimiser, a step, the averaged generator, spectral norm."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from fedinverse.config import Section
from fedinverse.optimisers import Adam

_REFRESH = 20  # power iterations that bring averaged weights' largest singular values up to date


class GanSettings(Section):
    """Settings of every GAN."""

    width: float = Field(1.0, gt=0, le=4, description="multiplies the networks' widths; 1 is the published size")
    steps: int = Field(20_000, ge=1, description="generator steps")
    batch_size: int = Field(64, ge=2, description="images per step, of each kind")
    lr: float = Field(2e-4, gt=0, description="Adam's learning rate; betas are (.5, .999), PLG-MI's (0, .9)")
    precision: Literal["fp32", "tf32"] = Field(
        "fp32", description="of the training: fp32, or tf32, on CUDA alone: faster, and another prior"
    )


class CriticStepsSettings(GanSettings):
    """Settings of a GAN whose critic takes several steps for one of the generator."""

    critic_steps: int = Field(5, ge=1, description="critic steps per generator step")


def gan_adam(network: nn.Module, lr: float, betas: tuple[float, float] = (0.5, 0.999)) -> torch.optim.Adam:
    """Return Adam as DCGAN's authors and most of the inversion papers set it; on CUDA one kernel steps all weights."""
    weights = list(network.parameters())
    on_cuda = weights[0].device.type == "cuda"
    return Adam(weights, lr, betas=betas, fused=on_cuda or None, capturable=on_cuda)


def averaged(model: nn.Module) -> torch.optim.swa_utils.AveragedModel:
    """Return the running average of ``model``'s parameters and buffers, to be updated after every step.

    It is what an attack samples from.
    """
    return torch.optim.swa_utils.AveragedModel(model, avg_fn=_average, use_buffers=True)


def _average(kept: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    """Average with a decay that warms up: (1 + n) / (10 + n), at most .999."""
    n = torch.as_tensor(count)
    decay = ((1 + n) / (10 + n)).clamp(max=0.999)
    return torch.lerp(current, kept, decay.to(kept.dtype)) if kept.is_floating_point() else current


def _layers(net: nn.Module) -> dict[str, nn.Module]:
    kinds = nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding
    return {name: layer for name, layer in net.named_modules() if isinstance(layer, kinds)}


def normalise(net: nn.Module, free: nn.Module | None = None) -> None:
    """Put every weight of ``net`` but the layer ``free``'s under spectral norm (Miyato et al. 2018), in place."""
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
