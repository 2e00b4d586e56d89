"""Local differential privacy on the update: clip what a client adds to the global model, then add noise.

Weights only: BatchNorm buffers are sent as they are. Like Flower's local-DP mod, but seeded, per cohort and
with the buffers left out.
"""

import torch
from pydantic import Field
from torch import nn

from clients.defences.defence import Defence, noise_generator, register
from fedinverse.accounting import spent_epsilon
from fedinverse.config import Section
from fedinverse.models import Classifier


class UpdateNoiseSettings(Section):
    """Clipping bound and noise."""

    clip_norm: float = Field(1.0, gt=0, description="L2 bound on the update of all weights together")
    noise_multiplier: float = Field(
        0.001, ge=0, description="standard deviation of the noise, per weight, over clip_norm; 0 clips only"
    )
    delta: float = Field(1e-5, gt=0, lt=1, description="delta of the reported (epsilon, delta)")


@register("update_noise")
class UpdateNoise(Defence):
    """Plain training; the update is clipped and noised before it leaves."""

    Settings = UpdateNoiseSettings

    def __init__(self, settings: UpdateNoiseSettings) -> None:
        super().__init__(settings)
        self._weights: list[nn.Parameter] = []
        self._start: list[torch.Tensor] = []
        self._generator = torch.Generator()
        self._covered = False

    def prepare(self, model: Classifier, examples: int, generator: torch.Generator) -> Classifier:
        """Remember the global weights."""
        del examples
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._start = [weight.detach().clone() for weight in self._weights]
        self._generator = generator
        self._covered = not any(buffer.is_floating_point() for buffer in model.buffers())
        return model

    @torch.no_grad()
    def finish(self, model: Classifier) -> None:
        """Set every weight to start + min(1, C / ||update||) update + noise."""
        s = self.settings
        updates = [weight - start for weight, start in zip(self._weights, self._start, strict=True)]
        source = noise_generator(self._generator, self._start[0].device)
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(update) for update in updates]))
        factor = (s.clip_norm / norm).clamp(max=1)  # norm 0: infinity, clamped
        for weight, start, update in zip(self._weights, self._start, updates, strict=True):
            noise = torch.randn(weight.shape, generator=source, device=weight.device, dtype=weight.dtype)
            weight.copy_(start + factor * update + s.noise_multiplier * s.clip_norm * noise)
        self._weights, self._start = [], []

    def report(self) -> dict[str, float]:
        """Return epsilon of this one message; none if BatchNorm buffers went along without noise.

        Any two updates are at most 2 C apart, so the noise counts with half its multiplier.
        """
        s = self.settings
        if not self._covered:
            return {}
        noise = s.noise_multiplier / 2
        return {
            "epsilon_round": spent_epsilon(noise, 1.0, 1, s.delta),
            "delta": s.delta,
            "dp_noise_multiplier": noise,
            "dp_sample_rate": 1.0,
            "dp_steps": 1.0,
        }
