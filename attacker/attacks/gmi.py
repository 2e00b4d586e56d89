"""GMI: generative model inversion (Zhang et al., "The Secret Revealer", CVPR 2020).

min_z  -D(G(z)) + lambda L_id(T(G(z)), y),  z0 ~ N(0, I)                                         (eq. 3-5)

by SGD with Nesterov momentum; z is clamped to [-1, 1] after each step. All classes and restarts are one batch, and
the loss is summed over it, so the path of one reconstruction does not depend on what else is reconstructed with it
(a diversity term couples a batch by intent).

| differs from the published code | why |
|---|---|
| per-sample step (published lr / batch size) and summed loss | batch composition must not matter |
| G, D, T frozen, in eval, BatchNorm folded | same images, 2x faster; T stays bit-identical |
| identity loss selectable | ``ce`` is published; margin losses recover more (LOM, PLG-MI) |
| a sample whose loss is NaN is marked failed, the others go on | one bad start must not cost the batch |
| every reconstruction draws from a stream of its own | as the first row |
"""

import torch
from pydantic import Field
from torch import Tensor

from attacker.attacks.attack import (
    Attack,
    Capabilities,
    Progress,
    PublicSet,
    Reconstructions,
    Stopwatch,
    Target,
    register,
    silent,
)
from attacker.attacks.selection import selected
from attacker.losses.objective import InversionSettings, Objective, account, objective, ready, row_parts
from attacker.priors.prior import Prior
from attacker.priors.wgan_gp import WganGpSettings, wgan_gp_prior
from attacker.streams import Streams


class GMISettings(InversionSettings):
    """Settings of GMI. Defaults are the published values for MNIST-like images."""

    prior: WganGpSettings = Field(WganGpSettings(), description="training of the WGAN-GP prior")
    identity_weight: float = Field(100.0, gt=0, description="lambda, weight of the identity loss")
    iterations: int = Field(1500, ge=0, description="optimisation steps")
    lr: float = Field(2e-3, gt=0, description="per-sample step; 3.33e-4 is published for faces")
    momentum: float = Field(0.9, ge=0, lt=1, description="Nesterov momentum")
    clamp: float = Field(1.0, gt=0, description="z is kept within [-clamp, clamp]")
    initial_selection: int = Field(
        0,
        ge=0,
        description="start from the best of this many latents, as the target scores them; 0: at random",
    )


@register("gmi")
class GMI(Attack):
    """Optimises the latent of a WGAN-GP against critic and target."""

    needs = Capabilities(critic=True)
    Settings = GMISettings
    settings: GMISettings

    def own_prior(
        self,
        target: Target | None,
        public: PublicSet,
        seed: int,
        device: torch.device,
        progress: Progress = silent,
    ) -> Prior:
        """Return the WGAN-GP of the public set; the target plays no part."""
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
        """Reconstruct one image per label."""
        watch = Stopwatch()
        target, prior = ready(self.settings, target, prior, labels, self.needs)
        z, goal = self.latents(target, prior, public, labels, generator=generator, progress=progress)
        return account(
            goal,
            lambda rows: prior.generator(z[rows]),
            z,
            labels,
            watch=watch,
            steps=self.settings.iterations,
            queries=self.queries(len(labels)),
        )

    def queries(self, count: int) -> int:
        """Return how many images the search of ``count`` latents sends through the target."""
        each = max(1, self.settings.augment)
        return self.settings.iterations * count * each + self.settings.initial_selection

    def latents(
        self,
        target: Target,
        prior: Prior,
        public: PublicSet,
        labels: Tensor,
        *,
        generator: torch.Generator,
        progress: Progress = silent,
    ) -> tuple[Tensor, Objective]:
        """Return the optimised latents [N, d], and what for; arguments as for ``invert``, made ``ready``."""
        settings = self.settings
        streams = Streams.of_labels(labels, generator)
        z = streams.normal(prior.latent).to(target.device)
        goal = objective(settings, target, public, streams, generator, progress=progress)
        if settings.initial_selection:
            z = selected(target, prior, labels, settings.initial_selection, generator)
        for part, classes in row_parts(settings, labels):
            z[part] = self._descend(
                prior,
                z[part],
                labels[part].to(target.device),
                goal=goal.rows(part),
                classes=classes,
                progress=progress,
            )
        return z, goal

    def _descend(
        self,
        prior: Prior,
        z: Tensor,
        labels: Tensor,
        *,
        goal: Objective,
        classes: int,
        progress: Progress,
    ) -> Tensor:
        """Return the optimised latents [N, d] of one batch."""
        settings, critic, identity = self.settings, prior.critic, goal.loss()
        assert critic is not None
        velocity = torch.zeros_like(z)
        for step in range(settings.iterations):
            z = z.detach().requires_grad_(True)
            images = prior.generator(z)
            loss, features = identity(images, labels)
            total = (settings.identity_weight * loss - critic(images)).sum()
            if goal.diversity.active:
                total = total + goal.diversity.of_rows(images, z, features, classes)
            (slope,) = torch.autograd.grad(total, z)
            with torch.no_grad():
                # torch.optim.SGD(momentum, nesterov=True), written out so that only z carries state
                velocity.mul_(settings.momentum).add_(slope)
                z = (z - settings.lr * (slope + settings.momentum * velocity)).clamp_(-settings.clamp, settings.clamp)
            progress("GMI", step + 1, settings.iterations)
        return z.detach()
