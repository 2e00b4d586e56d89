"""Identity losses: how much a reconstruction looks like its class to the target. One value per sample, never averaged.

| name | loss of logits l, features f, class y | source |
|---|---|---|
| ``ce`` | -log softmax(l)_y | GMI (Zhang et al. 2020) |
| ``logit`` | -l_y + mean (f - f_pub)^2, f_pub: mean of public features | LOM (Nguyen et al. 2023) |
| ``max_margin`` | -l_y + max_{j != y} l_j | PLG-MI (Yuan et al. 2023) |
| ``poincare`` | hyperbolic distance of l/||l||_1 to the one-hot class | PPA (Struppek et al. 2022) |

As published, the features of ``logit`` are held near the public ones in the captured model only; a student's loss is
-l_y alone.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from attacker.public_view import public_view
from fedinverse.models import Classifier, Features

IdentityName = Literal["ce", "logit", "max_margin", "poincare"]
UNBOUNDED: frozenset[IdentityName] = frozenset({"logit", "max_margin"})
"""Losses whose gradient does not fade once the class is recognised: plain gradient descent needs shorter steps."""
_REFERENCE_IMAGES = 2048  # enough for a mean per feature


@dataclass(frozen=True)
class IdentityLoss:
    """An identity loss for one model; ``anchor`` [F] is the mean of the public features for ``logit``, or None."""

    name: IdentityName
    anchor: Tensor | None = None

    def __call__(self, seen: Features, labels: Tensor) -> Tensor:
        """Return the loss [N] of what the model saw, for ``labels`` [N]."""
        if self.name == "ce":
            return F.cross_entropy(seen.logits, labels, reduction="none")
        if self.name == "poincare":
            return poincare(seen.logits, labels)
        if self.name == "max_margin":
            return max_margin(seen.logits, labels)
        logit = seen.logits.gather(1, labels[:, None]).squeeze(1)
        return -logit if self.anchor is None else (seen.penultimate - self.anchor).square().mean(1) - logit


def max_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the largest logit of another class less that of the class itself, [N]."""
    others = logits.scatter(1, labels[:, None], float("-inf")).amax(1)
    return others - logits.gather(1, labels[:, None]).squeeze(1)


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
    name: IdentityName, model: Classifier, public: Tensor, device: torch.device, random: torch.Generator
) -> IdentityLoss:
    """Return the loss ``name`` for a captured ``model``.

    Args:
        name: see the module's table.
        model: frozen, in eval mode.
        public: the attacker's images uint8 [M, C, H, W]; read by ``logit`` only.
        device: where the model lives.
        random: chooses the public images of the mean.
    """
    if name != "logit":
        return IdentityLoss(name)
    rows = torch.randperm(len(public), generator=random)[:_REFERENCE_IMAGES]
    features, _ = public_view(model, public[rows], device)
    return IdentityLoss(name, features.mean(0))
