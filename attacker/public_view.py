"""What a classifier makes of the attacker's public images: its logits and penultimate features, in one pass."""

import torch
from torch import Tensor

from fedinverse.data.source import unit
from fedinverse.models import Classifier


def public_view(model: Classifier, images: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return (features [N, F], logits [N, K]) of ``images``, uint8 [N, C, H, W]; ``model`` frozen and in eval mode."""
    with torch.no_grad():
        seen = [model.features(unit(part, device)) for part in torch.split(images, 256)]
        return torch.cat([look.penultimate for look in seen]), torch.cat([look.logits for look in seen])
