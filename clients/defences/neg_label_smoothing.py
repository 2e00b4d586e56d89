"""Negative label smoothing (Struppek et al., ICLR 2024): targets (1 - a) onehot(y) + a / K, a < 0."""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from clients.defences.defence import Defence, register
from fedinverse.config import Section
from fedinverse.models import Classifier


class SmoothingSettings(Section):
    """The published factor, without the paper's ramp over training: a defence knows one round only."""

    alpha: float = Field(-0.05, lt=1, gt=-10, description="smoothing factor; negative defends, positive exposes")


@register("neg_label_smoothing")
class NegativeLabelSmoothing(Defence):
    """Cross-entropy with smoothed targets. With alpha < 0 the loss has no lower bound and may diverge."""

    Settings = SmoothingSettings

    def loss(self, model: Classifier, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return ((1 - alpha) CE + alpha mean_k(-log p_k), logits)."""
        logits = model(images)  # torch's own label_smoothing refuses alpha < 0
        alpha = self.settings.alpha
        uniform = -F.log_softmax(logits, 1).mean()
        return (1 - alpha) * F.cross_entropy(logits, labels) + alpha * uniform, logits
