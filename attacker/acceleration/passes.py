"""Another way to compute an attack's gradient steps, and the check that it gives the same gradients.

Lower precision and compilation change how the passes of generator, critic and target run, never what they mean.
"""

import copy
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from attacker.attacks.attack import Target
from attacker.losses.identity import IdentityLoss, IdentityName
from attacker.priors.prior import Prior

_LATENTS = 32  # compared by the check
_PASSES = ("forward", "features", "begin", "advance", "finish")  # what attacks call of networks
Pass = Callable[..., Any]
M = TypeVar("M", bound=nn.Module)


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


def gradient_agreement(
    exact: tuple[Target, Prior], other: tuple[Target, Prior], labels: Tensor, identity: IdentityName
) -> float:
    """Return the median cosine, in [-1, 1], of both ways' gradients by the latent on 32 latents.

    It is the lower of the identity loss's and the critic's. NaN, of gradients that vanish or overflow, counts as no
    agreement.
    """
    target, prior = exact
    z = torch.randn(_LATENTS, prior.latent, generator=torch.Generator().manual_seed(0)).to(target.device)
    y = labels.to(target.device)[torch.arange(_LATENTS, device=target.device) % len(labels)]
    cosines = [
        torch.nan_to_num(torch.cosine_similarity(a.double(), b.double())).median()
        for a, b in zip(_slopes(*exact, z, y, identity), _slopes(*other, z, y, identity), strict=True)
    ]
    return float(torch.stack(cosines).min())


def _slopes(target: Target, prior: Prior, z: Tensor, y: Tensor, identity: IdentityName) -> list[Tensor]:
    """Return the gradients [N, d] of the identity loss and, if there is one, of the critic."""
    z = z.clone().requires_grad_(True)
    images = prior.generator(z)
    seen = target.model.features(images)
    loss = IdentityLoss(identity, torch.zeros_like(seen.penultimate), 0.0)(seen, y)
    values = [loss] if prior.critic is None else [loss, prior.critic(images)]
    return [torch.autograd.grad(value.sum(), z, retain_graph=True)[0] for value in values]
