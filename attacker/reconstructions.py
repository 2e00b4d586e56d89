"""What an attack made of a target, and what that cost."""

from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from attacker.losses.objective import Objective
from fedinverse.models import Classifier


@dataclass
class Cost:
    """What a reconstruction cost its attacker.

    Attributes:
        seconds: wall time of the inversion.
        target_queries: images sent through the captured models, backward passes not counted.
        steps: optimisation steps.
        precision: arithmetic of those steps.
    """

    seconds: float = 0.0
    target_queries: int = 0
    steps: int = 0
    precision: str = "fp32"


@dataclass(frozen=True)
class Reconstructions:
    """What an attack made of a target.

    Attributes:
        images: float32 [N, C, H, W] in [0, 1].
        labels: int64 [N], the class each is meant to show.
        latent: float32 [N, d].
        identity_loss: float32 [N], the attacker's own score, lower is better.
        confidence: float32 [N], the target's probability of the label, in [0, 1].
        failed: bool [N]; True where the optimisation met NaN. Such an image is black and never counted.
        notes: what was left out or done otherwise, a sentence each.
    """

    images: Tensor
    labels: Tensor
    latent: Tensor
    identity_loss: Tensor
    confidence: Tensor
    failed: Tensor
    cost: Cost = field(default_factory=Cost)
    notes: tuple[str, ...] = ()

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is stored of it."""
        return {name: getattr(self, name).numpy() for name in STORED}


STORED = ("images", "labels", "latent", "identity_loss", "confidence", "failed")


@torch.inference_mode()
def unoptimised(model: Classifier, images: Tensor, labels: Tensor, device: torch.device) -> Reconstructions:
    """Return samples of a prior [N, C, H, W] as reconstructions of ``labels``: the control of every figure."""
    confidence = model(images.to(device)).cpu().softmax(1).gather(1, labels[:, None]).squeeze(1)
    nothing = torch.zeros(len(labels), 1)
    return Reconstructions(images.cpu(), labels, nothing, nothing[:, 0], confidence, nothing[:, 0].bool())


@torch.no_grad()
def scored(
    goal: Objective, images: Tensor, latent: Tensor, labels: Tensor, cost: Cost, notes: tuple[str, ...] = ()
) -> Reconstructions:
    """Return ``images`` [N, C, H, W] with what the target alone thinks of them, unaugmented, on the CPU."""
    model, identity = goal.models[0]
    labels = labels.to(images.device)
    scores_, confidence_ = [], []
    for part, wanted in zip(images.split(goal.settings.max_batch), labels.split(goal.settings.max_batch), strict=True):
        seen = model.features(part)
        scores_.append(identity(seen, wanted))
        confidence_.append(seen.logits.softmax(1).gather(1, wanted[:, None]).squeeze(1))
    scores = torch.cat(scores_)
    failed = ~torch.isfinite(scores) | ~torch.isfinite(images).flatten(1).all(1)
    images = torch.where(failed[:, None, None, None], torch.zeros_like(images), images)
    kept = (images, labels, latent.detach(), scores, torch.cat(confidence_), failed)
    parts = [value.cpu().clone() for value in kept]
    return Reconstructions(parts[0], parts[1], parts[2], parts[3], parts[4], parts[5], cost, notes)
