"""Initial selection (PPA, Struppek et al. 2022): start an inversion from the best of N unoptimised latents.

The N candidates are drawn once and scored for every class, so the target is asked N times whatever the number of
classes; a class with r restarts starts from its r best. Images of colour are scored with their mirror image: 2 N.
"""

from functools import cached_property

import torch
from torch import Tensor

from attacker.priors.prior import Prior
from attacker.target import Target
from fedinverse.errors import ConfigError
from fedinverse.models import Classifier


class Candidates:
    """Latents [count, d] that an inversion may start from, drawn from ``random`` and scored when they are asked for."""

    def __init__(self, target: Target, prior: Prior, count: int, random: torch.Generator) -> None:
        self._model, self._prior, self._count = target.model, prior, count
        self._z = torch.randn(count, prior.latent, generator=random).to(target.device)
        self.queries = count * (2 if prior.shape[0] == 3 else 1)

    def best(self, labels: Tensor, restart: Tensor) -> Tensor:
        """Return a latent [N, d] for each of ``labels`` [N]: the best for restart 0, the second best for 1, and so on.

        ``labels`` are on the target's device, ``restart`` [N] on the CPU: reading it must not wait for the device.

        Raises:
            ConfigError: fewer candidates than restarts.
        """
        most = int(restart.max()) + 1
        if most > self._count:
            raise ConfigError(f"initial_selection = {self._count} candidates cannot start {most} restarts; raise it")
        return self._z[self._order[restart.to(labels.device), labels]].clone()

    @cached_property
    def _order(self) -> Tensor:
        """The candidates of each class, best first, [count, K]."""
        with torch.inference_mode():
            confidence = [_confidence(self._model, self._prior.generator(part)) for part in self._z.split(256)]
            return torch.cat(confidence).argsort(stable=True, dim=0, descending=True)


def _confidence(model: Classifier, images: Tensor) -> Tensor:
    """Return the model's probabilities [N, K], for images of colour averaged with their mirror's."""
    confidence: Tensor = model(images).softmax(1)
    if images.shape[1] == 3:
        confidence = (confidence + model(images.flip(3)).softmax(1)) / 2
    return confidence
