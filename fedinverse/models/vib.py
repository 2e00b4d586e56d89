"""Networks with a variational information bottleneck (VIB) for a head, which the defence MID trains.

The head is part of the global model, so every client and the attacker hold it: f -> Linear(f -> 2k), k =
f/2, gives mu and s; sigma = softplus(s - 5); z = mu + sigma eps; Linear(k -> K) decides (Alemi et al. 2017;
Wang et al. 2021).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedinverse.models.classifier import BlockClassifier, register
from fedinverse.models.lenet5 import LeNet5
from fedinverse.models.mcnn import MCNN
from fedinverse.models.vgg16 import VGG16

SHIFT = 5.0  # sigma = softplus(s - 5): the bottleneck starts almost noiseless
ASYMPTOTE = -20.0  # below, log softplus(t) = t up to 1e-9; softplus itself underflows in float32 near -103


def log_softplus(t: Tensor) -> Tensor:
    """Return log softplus(t), finite in value and gradient for every finite ``t``."""
    exact = torch.log(F.softplus(t.clamp_min(ASYMPTOTE)))
    return torch.where(t < ASYMPTOTE, t, exact)


class VIBHead(nn.Module):
    """The bottleneck and the decision. ``forward`` decides on mu; ``sample`` on a noisy z."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        width = max(1, features // 2)
        self.statistics = nn.Linear(features, 2 * width)
        self.decide = nn.Linear(width, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [B, K] of ``features`` [B, F] without noise: evaluation, and undefended clients."""
        mu, _ = self.statistics(features).chunk(2, 1)
        logits: Tensor = self.decide(mu)
        return logits

    def sample(self, features: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return noisy logits [B, K] and the KL divergence of z from a standard normal, [B] in nats.

        KL = sum_k 1/2 (mu^2 + sigma^2 - 1) - ln sigma. ``generator`` must live on the features' device.
        """
        mu, s = self.statistics(features).chunk(2, 1)
        sigma = F.softplus(s - SHIFT)
        noise = torch.randn(mu.shape, generator=generator, device=mu.device, dtype=mu.dtype)
        kl = (0.5 * (mu.square() + sigma.square() - 1) - log_softplus(s - SHIFT)).sum(1)
        return self.decide(mu + sigma * noise), kl


def with_vib_head(model: BlockClassifier, classes: int) -> BlockClassifier:
    """Replace the linear head of ``model`` by a ``VIBHead``."""
    assert isinstance(model.head, nn.Linear)
    model.head = VIBHead(model.head.in_features, classes)
    return model


@register("mcnn_vib", (1, 32, 32), "KED-MI's MCNN with the VIB head of MID")
def mcnn_vib(classes: int, width: float) -> BlockClassifier:
    """Return MCNN with a VIB head."""
    return with_vib_head(MCNN(classes, width), classes)


@register("lenet5_vib", (1, 32, 32), "LeNet-5 with the VIB head of MID")
def lenet5_vib(classes: int, width: float) -> BlockClassifier:
    """Return LeNet-5 with a VIB head."""
    return with_vib_head(LeNet5(classes, width), classes)


@register("vgg16_vib", (3, 64, 64), "VGG16-BN with the VIB head of MID")
def vgg16_vib(classes: int, width: float) -> BlockClassifier:
    """Return VGG16-BN with a VIB head; as published, without the BatchNorm that VGG16's linear head reads through."""
    model = with_vib_head(VGG16(classes, width), classes)
    model.pool = nn.Flatten()
    return model
