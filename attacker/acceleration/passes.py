"""Another way to compute an attack's gradient steps, and the check that it gives the same gradients.

Lower precision and compilation change how the passes of generator, critic and target run, never what they mean.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from attacker.losses.identity import IdentityLoss
from attacker.priors.prior import Prior
from attacker.target import Target

_LATENTS = 32  # compared by the check
_PASSES = ("forward", "features", "begin", "advance", "finish")  # what attacks call of networks
Pass = Callable[..., Any]
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Steps:
    """Target and prior as the gradient steps see them, and the ``arithmetic`` of those steps in words."""

    target: Target
    prior: Prior
    arithmetic: str = "fp32"

    def changed(self, change: Callable[[nn.Module], Any], arithmetic: str) -> "Steps":
        """Return the same with ``change`` made to every network."""
        prior, target = self.prior, self.target
        critic = None if prior.critic is None else change(prior.critic)
        earlier = tuple(replace(each, model=change(each.model)) for each in target.earlier)
        return Steps(
            replace(target, model=change(target.model), earlier=earlier),
            replace(prior, generator=change(prior.generator), critic=critic),
            arithmetic,
        )


def with_steps(network: M, change: Callable[[Pass], Pass]) -> M:
    """Return ``network``, its weights shared, whose passes are ``change``d wherever a gradient is wanted."""
    ready = copy.copy(network)
    for name in _PASSES:
        if hasattr(network, name):
            setattr(ready, name, _while_differentiated(getattr(network, name), change))
    return ready


def _while_differentiated(call: Pass, change: Callable[[Pass], Pass]) -> Pass:
    changed = change(call)

    @wraps(call)
    def chosen(*arguments: Any) -> Any:
        return changed(*arguments) if torch.is_grad_enabled() else call(*arguments)

    return chosen


def gradients(steps: Steps, labels: Tensor, identity: str) -> list[Tensor]:
    """Return the gradients [32, d] by 32 latents of the identity loss and, if there is one, of the critic."""
    target, prior = steps.target, steps.prior
    z = torch.randn(_LATENTS, prior.latent, generator=torch.Generator().manual_seed(0)).to(target.device)
    y = labels[torch.arange(_LATENTS) % len(labels)].to(target.device)
    z.requires_grad_(True)
    images = prior.images(z, y)
    values = [IdentityLoss(identity)(target.model.features(images), y)]
    if prior.critic is not None:
        values.append(prior.critic(images))
    return [torch.autograd.grad(value.sum(), z, retain_graph=True)[0] for value in values]


def agreement(reference: list[Tensor], other: list[Tensor]) -> float:
    """Return the median cosine, in [-1, 1], of two ways' gradients; the lower of the identity loss's and the critic's.

    NaN, of gradients that vanish or overflow, counts as no agreement.
    """
    cosines = [
        torch.nan_to_num(torch.cosine_similarity(a.double(), b.double())).median()
        for a, b in zip(reference, other, strict=True)
    ]
    return float(torch.stack(cosines).min())
