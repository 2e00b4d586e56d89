"""Initial selection (PPA, Struppek et al. 2022): start an inversion from the best of N unoptimised latents.

The N candidates are drawn once and scored for every class, so the target is asked N times whatever the number of
classes; a class with r restarts starts from its r best. Images of colour are scored with their mirror image.
"""

import torch
from torch import Tensor

from attacker.attacks.attack import Target
from attacker.priors.prior import Prior
from attacker.streams import occurrences
from fedinverse.errors import ConfigError


def selected(target: Target, prior: Prior, labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return a starting latent for each of ``labels`` [N], [N, d] on the target's device.

    Raises:
        ConfigError: fewer candidates than restarts.
    """
    restart = occurrences(labels)
    if int(restart.max()) >= count:
        raise ConfigError(
            f"initial_selection = {count} candidates cannot start {int(restart.max()) + 1} restarts; raise it"
        )
    candidates = torch.randn(count, prior.latent, generator=generator).to(target.device)
    with torch.inference_mode():
        confidence = torch.cat([_confidence(target, prior.generator(part)) for part in torch.split(candidates, 256)])
        best = confidence.argsort(stable=True, dim=0, descending=True)  # [count, K]
    return candidates[best[restart, labels]].clone()


def _confidence(target: Target, images: Tensor) -> Tensor:
    """Return the target's probabilities [N, K], for images of colour averaged with their mirror's."""
    confidence: Tensor = target.model(images).softmax(1)
    if images.shape[1] == 3:
        confidence = (confidence + target.model(images.flip(3)).softmax(1)) / 2
    return confidence
