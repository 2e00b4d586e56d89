"""Training on noisy images: the loss becomes CE(f(x + s e), y), e ~ N(0, I), clipped to [0, 1].

What the network learns of an image is what survives the noise (Bishop 1995: a smoothness penalty).
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from clients.defences import Defence
from clients.defences.defence import noise_generator
from fedinverse.config import Section
from fedinverse.models import Classifier


class NoisyImagesSettings(Section):
    """How noisy."""

    deviation: float = Field(0.1, ge=0, description="standard deviation s of the noise; images are in [0, 1]")


class NoisyImages(Defence):
    """Adds fresh noise to every image of every batch."""

    Settings = NoisyImagesSettings

    def prepare(self, model: Classifier, examples: int, generator: torch.Generator) -> Classifier:
        """Seed the noise from the client's own stream, so that a run repeats."""
        del examples
        self._noise = noise_generator(generator, next(model.parameters()).device)
        return model

    def loss(self, model: Classifier, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (CE on noisy images, logits)."""
        noise = torch.randn(images.shape, generator=self._noise, device=images.device)
        logits = model((images + self.settings.deviation * noise).clamp(0, 1))
        return F.cross_entropy(logits, labels), logits
