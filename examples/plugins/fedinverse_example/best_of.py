"""Best of N: no optimisation. Of N images of the prior, each class gets those that the target is surest of.

max_i  p_T(y | G(z_i)),  z_1 ... z_N ~ N(0, I)

The least an attacker can do with a captured model, and so a yardstick for attacks that optimise.
"""

import torch
from pydantic import Field
from torch import Tensor

from attacker.attacks.attack import (
    Attack,
    Progress,
    PublicSet,
    Reconstructions,
    Stopwatch,
    Target,
    silent,
)
from attacker.attacks.selection import selected
from attacker.losses.objective import InversionSettings, account, objective, ready
from attacker.priors.prior import Prior
from attacker.priors.wgan_gp import WganGpSettings, wgan_gp_prior
from attacker.streams import Streams


class BestOfSettings(InversionSettings):
    """How many candidates, and of which prior."""

    prior: WganGpSettings = Field(WganGpSettings(), description="training of the WGAN-GP prior")
    candidates: int = Field(200, ge=1, description="N, images drawn once and scored for every class")


class BestOf(Attack):
    """Chooses among unoptimised images."""

    Settings = BestOfSettings

    def own_prior(
        self,
        target: Target | None,
        public: PublicSet,
        seed: int,
        device: torch.device,
        progress: Progress = silent,
    ) -> Prior:
        """Return GMI's prior; the target plays no part in it."""
        del target
        return wgan_gp_prior(self.settings.prior, public, seed, device, progress)

    def invert(
        self,
        target: Target,
        prior: Prior,
        public: PublicSet,
        labels: Tensor,
        generator: torch.Generator,
        progress: Progress = silent,
    ) -> Reconstructions:
        """Return one image per label, the r-th restart of a class its r-th best."""
        watch, settings = Stopwatch(), self.settings
        target, prior = ready(settings, target, prior, labels, self.needs)
        streams = Streams.of_labels(labels, generator)
        goal = objective(settings, target, public, streams, generator, progress=progress)
        z = selected(target, prior, labels, settings.candidates, generator)
        progress("best of N", 1, 1)
        return account(
            goal,
            lambda rows: prior.generator(z[rows]),
            z,
            labels,
            watch=watch,
            steps=0,
            queries=settings.candidates,
        )
