"""Identity losses: how much a reconstruction looks like its class to the target. One value per sample, never averaged.

| name | loss of logits l, features f, class y | source |
|---|---|---|
| ``ce`` | -log softmax(l)_y | GMI (Zhang et al. 2020) |
| ``logit`` | -l_y + mean (f - f_pub)^2, f_pub: mean of public features | LOM (Nguyen et al. 2023) |
| ``max_margin`` | -l_y + max_{j != y} l_j | PLG-MI (Yuan et al. 2023) |
| ``poincare`` | hyperbolic distance of l/||l||_1 to the one-hot class | PPA (Struppek et al. 2022) |

As published, the features of ``logit`` are held near the public ones in the captured model only; a student's loss is
-l_y alone. Another loss is a function ``(seen, labels) -> [N]`` outside this repository, named ``package.module:name``.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from pydantic import AfterValidator
from torch import Tensor

from attacker.target import public_view
from fedinverse.errors import ConfigError
from fedinverse.models import Classifier, Features
from fedinverse.registry import Registry

_REFERENCE_IMAGES = 2048  # enough for a mean per feature


@dataclass(frozen=True)
class IdentityKind:
    """A kind of identity loss.

    Attributes:
        loss: (what the model saw, labels [N], mean of the public features [F] or None) -> [N].
        unbounded: its gradient does not fade once the class is recognised: plain gradient descent needs shorter steps.
        anchored: a captured model's public features are held near their mean.
    """

    loss: Callable[[Features, Tensor, Tensor | None], Tensor]
    unbounded: bool = False
    anchored: bool = False


def _kind(imported: object) -> IdentityKind | None:
    if isinstance(imported, IdentityKind):
        return imported
    try:
        inspect.signature(imported).bind("seen", "labels")  # type: ignore[arg-type]
    except (TypeError, ValueError):  # it cannot be called with the two
        return None
    loss = cast(Callable[[Features, Tensor], Tensor], imported)
    return IdentityKind(lambda seen, labels, anchor: loss(seen, labels))


IDENTITY_LOSSES: Registry[IdentityKind] = Registry(
    "identity loss", "fedinverse.identity_losses", "a function (seen, labels) -> [N], or an IdentityKind", _kind
)


def _known(name: str) -> str:
    try:
        IDENTITY_LOSSES.get(name)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return name


IdentityName = Annotated[str, AfterValidator(_known)]


@dataclass(frozen=True)
class IdentityLoss:
    """An identity loss for one model; ``anchor`` [F] is the mean of the public features for ``logit``, or None."""

    name: str
    anchor: Tensor | None = None
    kind: IdentityKind = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", IDENTITY_LOSSES.get(self.name))

    def __call__(self, seen: Features, labels: Tensor) -> Tensor:
        """Return the loss [N] of what the model saw, for ``labels`` [N]."""
        return self.kind.loss(seen, labels, self.anchor)


def cross_entropy(seen: Features, labels: Tensor, anchor: Tensor | None) -> Tensor:
    """Return -log softmax(l)_y."""
    del anchor
    return F.cross_entropy(seen.logits, labels, reduction="none")


def logit(seen: Features, labels: Tensor, anchor: Tensor | None) -> Tensor:
    """Return -l_y, and the features' mean squared distance from the ``anchor``."""
    of_class = seen.logits.gather(1, labels[:, None]).squeeze(1)
    return -of_class if anchor is None else (seen.penultimate - anchor).square().mean(1) - of_class


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


IDENTITY_LOSSES.register("ce", IdentityKind(cross_entropy), __name__)
IDENTITY_LOSSES.register("logit", IdentityKind(logit, unbounded=True, anchored=True), __name__)
IDENTITY_LOSSES.register(
    "max_margin", IdentityKind(lambda seen, labels, _: max_margin(seen.logits, labels), unbounded=True), __name__
)
IDENTITY_LOSSES.register("poincare", IdentityKind(lambda seen, labels, _: poincare(seen.logits, labels)), __name__)


def identity_loss(
    name: str, model: Classifier, public: Tensor, device: torch.device, random: torch.Generator
) -> IdentityLoss:
    """Return the loss ``name`` for a captured ``model``.

    Args:
        name: see the module's table.
        model: frozen, in eval mode.
        public: the attacker's images uint8 [M, C, H, W]; read by an anchored loss only.
        random: chooses the public images of the mean.
    """
    if not IDENTITY_LOSSES.get(name).anchored:
        return IdentityLoss(name)
    rows = torch.randperm(len(public), generator=random)[:_REFERENCE_IMAGES]
    features, _ = public_view(model, public[rows], device)
    return IdentityLoss(name, features.mean(0))
