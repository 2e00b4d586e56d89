"""GMI: generative model inversion (Zhang et al., "The Secret Revealer", CVPR 2020).

min_z  -D(G(z)) + lambda L_id(T(G(z)), y),  z0 ~ N(0, I)                                         (eq. 3-5)

by SGD with Nesterov momentum; z is clamped to [-1, 1] after each step. All classes and restarts are one batch, and the
loss is summed over it, so the path of one reconstruction does not depend on what else is reconstructed with it.

| differs from the published code | why |
|---|---|
| per-sample step (published lr / batch size) and summed loss | batch composition must not matter |
| G, D, T frozen, in eval, BatchNorm folded | same images, 2x faster; T stays bit-identical |
| identity loss selectable | ``ce`` is published; margin losses recover more (LOM, PLG-MI) |
| a sample whose loss is NaN is marked failed, the others go on | one bad start must not cost the batch |
"""

import torch
from pydantic import Field
from torch import Tensor

from attacker.attack import (
    Attack,
    Capabilities,
    Cost,
    Progress,
    PublicSet,
    Reconstructions,
    Stopwatch,
    Target,
    check_fit,
    register,
    silent,
)
from attacker.identity import IdentityLoss, IdentityName, identity_loss
from attacker.priors.prior import Prior
from attacker.priors.wgan_gp import WganGpSettings, wgan_gp_prior
from fedinverse.config import Section


class GMISettings(Section):
    """Settings of GMI. Defaults are the published values for MNIST-like images."""

    prior: WganGpSettings = Field(WganGpSettings(), description="training of the WGAN-GP prior")
    identity_loss: IdentityName = Field("ce", description="ce (published), logit, max_margin or poincare")
    identity_weight: float = Field(100.0, gt=0, description="lambda, weight of the identity loss")
    iterations: int = Field(1500, ge=0, description="optimisation steps")
    lr: float = Field(2e-3, gt=0, description="per-sample step; 3.33e-4 is published for faces")
    momentum: float = Field(0.9, ge=0, lt=1, description="Nesterov momentum")
    clamp: float = Field(1.0, gt=0, description="z is kept within [-clamp, clamp]")
    max_batch: int = Field(1024, ge=1, description="memory budget: at most this many images at once")


@register("gmi")
class GMI(Attack):
    """Optimises the latent of a WGAN-GP against critic and target."""

    needs = Capabilities(critic=True)
    Settings = GMISettings
    settings: GMISettings

    def prior(
        self, target: Target | None, public: PublicSet, seed: int, device: torch.device, progress: Progress = silent
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
        check_fit(target, prior, labels)
        watch, settings = Stopwatch(), self.settings
        z = torch.randn(len(labels), prior.latent, generator=generator).to(target.device)
        labels = labels.to(target.device)
        loss = identity_loss(settings.identity_loss, target.model, public.images, len(labels), generator)
        parts = torch.arange(len(labels)).split(settings.max_batch)
        for part in parts:
            z[part] = self._descend(target, prior, z[part], labels[part], loss.of(part), progress)
        with torch.inference_mode():
            images = torch.cat([prior.generator(z[part]) for part in parts])
            seen = [target.model.features(images[part]) for part in parts]
            scores = torch.cat(
                [loss.of(part)(look, labels[part]) for look, part in zip(seen, parts, strict=True)]
            )
            confidence = torch.cat([look.logits for look in seen]).softmax(1).gather(1, labels[:, None]).squeeze(1)
        failed = ~torch.isfinite(scores) | ~torch.isfinite(images).flatten(1).all(1)
        images = torch.where(failed[:, None, None, None], torch.zeros_like(images), images)
        return Reconstructions(
            *(value.cpu().clone() for value in (images, labels, z, scores, confidence, failed)),
            Cost(watch.seconds, (settings.iterations + 1) * len(labels), settings.iterations),
        )

    def _descend(
        self, target: Target, prior: Prior, z: Tensor, labels: Tensor, identity: IdentityLoss, progress: Progress
    ) -> Tensor:
        """Return the optimised latents [N, d] of one batch."""
        settings, critic = self.settings, prior.critic
        assert critic is not None
        velocity = torch.zeros_like(z)
        for step in range(settings.iterations):
            z = z.detach().requires_grad_(True)
            images = prior.generator(z)
            loss = settings.identity_weight * identity(target.model.features(images), labels) - critic(images)
            (slope,) = torch.autograd.grad(loss.sum(), z)
            with torch.no_grad():
                # torch.optim.SGD(momentum, nesterov=True), written out so that only z carries state
                velocity.mul_(settings.momentum).add_(slope)
                z = (z - settings.lr * (slope + settings.momentum * velocity)).clamp_(-settings.clamp, settings.clamp)
            progress("GMI", step + 1, settings.iterations)
        return z.detach()
