"""MID (Wang et al., AAAI 2021): limit what the prediction knows of the image with a variational bottleneck.

CE on the noisy bottleneck + beta mean_batch KL(z || N(0, I)). The bottleneck is a head of the *global*
model (``mcnn_vib``, ``lenet5_vib``, ``vgg16_vib``): every client holds it, clients with another defence
train it without noise. The global model evaluates without noise, and so may an attacker, who holds the
weights; ``VIBHead.sample`` gives the noisy form for attacks that average over the noise (EOT).
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from clients.defences.defence import Defence, noise_generator, register
from fedinverse.config import Section
from fedinverse.errors import ConfigError
from fedinverse.models import Classifier
from fedinverse.models.vib import VIBHead


class MidSettings(Section):
    """Weight of the bottleneck; published: .2 on MNIST, .003 to .02 on CelebA."""

    beta: float = Field(0.02, ge=0, description="weight of the KL divergence")
    warmup_steps: int = Field(0, ge=0, description="local steps of each round over which beta rises linearly from 0")


@register("mid")
class Mid(Defence):
    """Trains the VIB head of the global model with noise and the KL penalty."""

    Settings = MidSettings

    def __init__(self, settings: MidSettings) -> None:
        super().__init__(settings)
        self._step = 0
        self._noise = torch.Generator()

    @classmethod
    def check(cls, settings: MidSettings, model: Classifier) -> None:
        """Refuse a model without a VIB head."""
        if not isinstance(getattr(model, "head", None), VIBHead):
            raise ConfigError(
                f"defence mid needs a global model with a VIB head, {type(model).__name__} has none; "
                "set model.name to 'mcnn_vib', 'lenet5_vib' or 'vgg16_vib'"
            )

    def prepare(self, model: Classifier, examples: int, generator: torch.Generator) -> Classifier:
        """Seed the noise."""
        del examples
        self._step = 0
        self._noise = noise_generator(generator, next(model.parameters()).device)
        return model

    def loss(self, model: Classifier, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (CE of the noisy logits + beta KL, noisy logits)."""
        head: VIBHead = model.head  # type: ignore[assignment]
        logits, kl = head.sample(model.features(images).penultimate, self._noise)
        self._step += 1
        beta = self.settings.beta * min(1.0, self._step / max(1, self.settings.warmup_steps))
        return F.cross_entropy(logits, labels) + beta * kl.mean(), logits
