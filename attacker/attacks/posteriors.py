"""Families of distributions over latents, one distribution per class, all classes stacked: the q of VMI.

Every parameter has the classes first, so C distributions are fitted by one optimiser in one batch and none of them
feels the others. A family gives samples with weights that sum to 1 per class (a mixture samples each component and
weighs it, which keeps the gradient by the mixture weights exact), and the divergence from the prior N(0, I) in nats:

| family | q | KL(q || N(0, I)) |
|---|---|---|
| ``gaussian`` | N(m, diag sigma^2) | 1/2 sum (sigma^2 + m^2 - 1 - ln sigma^2), closed form |
| ``full`` | m + L eps, L lower triangular | 1/2 (||L||_F^2 + ||m||^2 - d - 2 ln |det L|), closed form |
| ``gmm`` | sum_k pi_k N(m_k, diag sigma_k^2) | E_q [ln q(z) - ln p(z)], exact densities, by sampling |
| ``flow`` | f(eps), f invertible (Glow-style) | E [1/2 (||z||^2 - ||eps||^2)] - ln |det f'|, exact determinant |

The flow is our own: kept libraries (zuko, normflows) hold one flow per module, not one per class in a batch.
Every q starts at the prior.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Family = Literal["gaussian", "full", "gmm", "flow"]


@dataclass(frozen=True)
class Draw:
    """Samples of C distributions.

    Attributes:
        z: [C, S, d].
        weight: [C, S], sums to 1 over S.
        divergence: KL(q || N(0, I)) of each, [C], in nats; for ``gmm`` and ``flow`` an unbiased estimate.
    """

    z: Tensor
    weight: Tensor
    divergence: Tensor


class Posterior(nn.Module, ABC):
    """C distributions over R^d, d = ``latent``."""

    latent: int

    @abstractmethod
    def forward(self, eps: Tensor) -> Draw:
        """Return what standard normal noise ``eps`` [C, S, d] becomes; S is a multiple of a mixture's components."""

    def sample(self, noise: Callable[[int], Tensor]) -> Tensor:
        """Return samples of each distribution, [C, n, d]; ``noise`` gives N(0, I) numbers [C, n, size]."""
        with torch.no_grad():
            drawn: Draw = self(noise(self.latent))
            return drawn.z


@dataclass(frozen=True)
class FlowShape:
    """How a flow is built: levels, steps of each, width of the coupling networks, and what is between their layers."""

    levels: int
    steps: int
    hidden: int
    activation: Literal["relu", "elu"] = "relu"


def posterior(
    family: Family, classes: int, latent: int, components: int, flow: FlowShape, random: torch.Generator
) -> Posterior:
    """Return ``classes`` distributions over R^latent that are the prior N(0, I).

    Args:
        family: see the module's table.
        latent: d.
        components: of ``gmm``.
        flow: of ``flow``.
        random: CPU generator of ``flow``'s permutations and first weights.
    """
    if family == "gaussian":
        return Gaussian(classes, latent)
    if family == "full":
        return Full(classes, latent)
    if family == "gmm":
        return Mixture(classes, latent, components)
    return Flow(classes, latent, flow, random)


def _even(eps: Tensor) -> Tensor:
    return eps.new_full(eps.shape[:2], 1 / eps.shape[1])


class Gaussian(Posterior):
    """Diagonal covariance."""

    def __init__(self, classes: int, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.mean = nn.Parameter(torch.zeros(classes, latent))
        self.log_sigma = nn.Parameter(torch.zeros(classes, latent))

    def forward(self, eps: Tensor) -> Draw:
        """Return m + sigma eps."""
        sigma = self.log_sigma.exp()
        divergence = 0.5 * (sigma.square() + self.mean.square() - 1) - self.log_sigma
        return Draw(self.mean[:, None] + sigma[:, None] * eps, _even(eps), divergence.sum(1))


class Full(Posterior):
    """Full covariance L L'; the diagonal of L is kept positive as exp, so that |det L| is never 0."""

    def __init__(self, classes: int, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.mean = nn.Parameter(torch.zeros(classes, latent))
        self.log_diagonal = nn.Parameter(torch.zeros(classes, latent))
        self.below = nn.Parameter(torch.zeros(classes, latent, latent))

    @property
    def factor(self) -> Tensor:
        """L, [C, d, d]."""
        return self.below.tril(-1) + torch.diag_embed(self.log_diagonal.exp())

    def forward(self, eps: Tensor) -> Draw:
        """Return m + L eps."""
        L = self.factor
        divergence = 0.5 * (
            L.square().sum((1, 2)) + self.mean.square().sum(1) - L.shape[1] - 2 * self.log_diagonal.sum(1)
        )
        return Draw(self.mean[:, None] + eps @ L.mT, _even(eps), divergence)


class Mixture(Posterior):
    """A mixture of diagonal Gaussians; equal components at first, told apart by the noise each of them gets."""

    def __init__(self, classes: int, latent: int, components: int) -> None:
        super().__init__()
        self.latent, self.components = latent, components
        self.mean = nn.Parameter(torch.zeros(classes, components, latent))
        self.log_sigma = nn.Parameter(torch.zeros(classes, components, latent))
        self.logits = nn.Parameter(torch.zeros(classes, components))

    def forward(self, eps: Tensor) -> Draw:
        """Return S / components samples of each component, weighted by it."""
        classes, samples, latent = eps.shape
        each = samples // self.components
        noise = eps.view(classes, self.components, each, latent)
        z = self.mean[:, :, None] + self.log_sigma.exp()[:, :, None] * noise
        z = z.flatten(1, 2)
        weight = (self.logits.softmax(1) / each).repeat_interleave(each, 1)
        log_p = -0.5 * z.square().sum(2)  # both densities without the (2 pi)^(d/2) they share
        divergence = (weight * (self._log_density(z) - log_p)).sum(1)
        return Draw(z, weight, divergence)

    def _log_density(self, z: Tensor) -> Tensor:
        """Return ln q(z) + d/2 ln 2 pi, [C, S], of ``z`` [C, S, d]."""
        scaled = (z[:, None] - self.mean[:, :, None]) * (-self.log_sigma).exp()[:, :, None]  # [C, k, S, d]
        log = -0.5 * scaled.square().sum(3) - self.log_sigma.sum(2)[:, :, None]
        return torch.logsumexp(log + self.logits.log_softmax(1)[:, :, None], 1)

    def sample(self, noise: Callable[[int], Tensor]) -> Tensor:
        """Return samples of each mixture, components by their weights."""
        with torch.no_grad():
            eps = noise(self.latent + 1)
            upto = self.logits.softmax(1).cumsum(1)
            uniform = torch.special.ndtr(eps[..., -1])  # the number more decides the component
            chosen = torch.searchsorted(upto, uniform).clamp_max(self.components - 1)
            index = chosen[:, :, None].expand(-1, -1, self.latent)
            return self.mean.gather(1, index) + self.log_sigma.gather(1, index).exp() * eps[..., :-1]


class Flow(Posterior):
    """Glow-style (Kingma and Dhariwal 2018): per step actnorm, a fixed random permutation, an additive coupling.

    ``levels`` levels of ``steps`` steps; each level acts on the first half of the dimensions of the one before. The
    coupling's network has two hidden layers and a last layer of zeros, so that f starts as a permutation.
    """

    def __init__(self, classes: int, latent: int, shape: FlowShape, random: torch.Generator) -> None:
        super().__init__()
        self.latent = latent
        self.steps = nn.ModuleList()
        width = latent
        for _ in range(shape.levels):
            if width < 2:
                break
            self.steps.extend(_FlowStep(classes, width, shape, random) for _ in range(shape.steps))
            width //= 2

    def forward(self, eps: Tensor) -> Draw:
        """Return f(eps)."""
        z, volume = eps, eps.new_zeros(len(eps))
        for step in self.steps:
            z, grown = step(z)
            volume = volume + grown
        # ln q(f(eps)) = ln N(eps) - ln |det f'|
        divergence = 0.5 * (z.square() - eps.square()).sum(2).mean(1) - volume
        return Draw(z, _even(eps), divergence)


class _FlowStep(nn.Module):
    """One step on the first ``width`` dimensions of [C, S, d]; returns them and ln |det|, [C]."""

    permutation: Tensor

    def __init__(self, classes: int, width: int, shape: FlowShape, random: torch.Generator) -> None:
        super().__init__()
        self.activation = shape.activation
        self.width, self.kept = width, width - width // 2
        self.log_scale = nn.Parameter(torch.zeros(classes, width))  # actnorm: eps has mean 0 and variance 1
        self.shift = nn.Parameter(torch.zeros(classes, width))
        self.register_buffer("permutation", torch.randperm(width, generator=random))
        sizes = (self.kept, shape.hidden, shape.hidden, width // 2)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            # the same start for every class: a class does not feel how many others there are
            start = torch.randn(fan_in, fan_out, generator=random) * math.sqrt(2 / fan_in) * (layer < 2)
            self.weights.append(nn.Parameter(start.expand(classes, -1, -1).clone()))
            self.biases.append(nn.Parameter(torch.zeros(classes, 1, fan_out)))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        moving, rest = z[..., : self.width], z[..., self.width :]
        moving = (moving + self.shift[:, None]) * self.log_scale.exp()[:, None]
        moving = moving[..., self.permutation]
        still, moved = moving[..., : self.kept], moving[..., self.kept :]
        hidden, activation = still, F.elu if self.activation == "elu" else F.relu
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden if layer == 0 else activation(hidden), weight)
        return torch.cat([still, moved + hidden, rest], 2), self.log_scale.sum(1)
