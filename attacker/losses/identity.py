"""Identity losses: how much a reconstruction looks like its class to the target. One value per sample, never averaged.

| name | loss of logits l, features f, class y | source |
|---|---|---|
| ``ce`` | -log softmax(l)_y | GMI (Zhang et al. 2020) |
| ``logit`` | -l_y + lambda mean (f - f_pub)^2, f_pub ~ N(mean, var) of public features | LOM (Nguyen et al. 2023) |
| ``max_margin`` | -l_y + max_{j != y} l_j | PLG-MI (Yuan et al. 2023) |
| ``poincare`` | hyperbolic distance of l/||l||_1 to the one-hot class | PPA (Struppek et al. 2022) |
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from attacker.public_view import public_view
from attacker.streams import Streams
from fedinverse.models import Classifier, Features

IdentityName = Literal["ce", "logit", "max_margin", "poincare"]
_REFERENCE_IMAGES = 2048  # enough for a mean and a variance per feature


@dataclass(frozen=True)
class IdentityLoss:
    """An identity loss for one target; ``anchor`` [N, F] holds the public features of ``logit``.

    Several views of a reconstruction stand next to each other in a batch and share its anchor.
    """

    name: IdentityName
    anchor: Tensor | None = None
    weight: float = 1.0

    def of(self, rows: Tensor) -> "IdentityLoss":
        """Return the loss for the samples ``rows`` alone."""
        return self if self.anchor is None else replace(self, anchor=self.anchor[rows])

    def __call__(self, seen: Features, labels: Tensor) -> Tensor:
        """Return the loss [N] of what the target saw, for ``labels`` [N]."""
        logits = seen.logits
        if self.name == "ce":
            return F.cross_entropy(logits, labels, reduction="none")
        if self.name == "poincare":
            return poincare(logits, labels)
        own = logits.gather(1, labels[:, None]).squeeze(1)
        if self.name == "max_margin":
            return logits.scatter(1, labels[:, None], float("-inf")).amax(1) - own
        assert self.anchor is not None
        anchor = self.anchor.repeat_interleave(len(labels) // len(self.anchor), 0)
        return self.weight * (seen.penultimate - anchor).square().mean(1) - own


def poincare(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the Poincaré distance [N] between u = l/||l||_1 and v = (1 - 1e-4) one-hot(y), both kept in the ball.

    arcosh(1 + 2 ||u - v||^2 / ((1 - ||u||^2)(1 - ||v||^2))); a one-hot u would be infinitely far from everything,
    so the norm is held below 1 - 1e-5.
    """
    u = logits / logits.abs().sum(1, keepdim=True).clamp_min(1e-12)
    norm = u.norm(dim=1, keepdim=True)
    u = u * ((1 - 1e-5) / norm.clamp_min(1e-12)).clamp_max(1.0)
    v = F.one_hot(labels, logits.shape[1]).to(u.dtype) * (1 - 1e-4)
    apart = (u - v).square().sum(1)
    room = (1 - u.square().sum(1)) * (1 - v.square().sum(1))
    return torch.acosh(1 + 2 * apart / room)


def identity_loss(
    name: IdentityName, model: Classifier, public: Tensor, streams: Streams, generator: torch.Generator
) -> IdentityLoss:
    """Return the loss ``name`` for ``model``.

    Args:
        name: see the module's table.
        model: the target or a student; frozen, in eval mode.
        public: the attacker's images uint8 [M, C, H, W]; read by ``logit`` only.
        streams: of the reconstructions; ``logit`` draws one anchor from each.
        generator: of the public images that ``logit`` takes its statistics from.
    """
    if name != "logit":
        return IdentityLoss(name)
    device = next(model.parameters()).device
    rows = torch.randperm(len(public), generator=generator)[:_REFERENCE_IMAGES]
    features, _ = public_view(model, public[rows], device)
    noise = streams.normal(features.shape[1]).to(device)
    return IdentityLoss(name, features.mean(0) + features.std(0) * noise)
