"""GMI: generative model inversion (Zhang et al., "The Secret Revealer", CVPR 2020).

min_z  -D(G(z)) + lambda L_id(T(G(z)), y),  z0 ~ N(0, I)                                         (eq. 3-5)

by SGD with Nesterov momentum; z is clamped to [-1, 1] after each step. All classes and restarts are one batch, and
the loss is summed over it, so the path of one reconstruction does not depend on what else is reconstructed with it
(a diversity term couples a batch by intent).

| differs from the published code | why |
|---|---|
| per-sample step (published lr / batch size) and summed loss | batch composition must not matter |
| G, D, T frozen, in eval, BatchNorm folded | same images, 2x faster; T stays bit-identical |
| identity loss selectable; a tenth of the step for those without bound | ``ce`` is published; margins recover more |
| a sample whose loss is NaN is marked failed, the others go on | one bad start must not cost the batch |
| every reconstruction draws from a stream of its own | as the first row |
"""

import torch
from pydantic import Field
from torch import Tensor

from attacker.attacks.attack import Attack, Capabilities, register
from attacker.attacks.case import Case
from attacker.losses.identity import IDENTITY_LOSSES
from attacker.losses.settings import InversionSettings
from attacker.priors.wgan_gp import WganGp, WganGpSettings


class GMISettings(InversionSettings):
    """Settings of GMI. Defaults are the published values for MNIST-like images."""

    prior: WganGpSettings = Field(WganGpSettings(), description="training of the WGAN-GP prior")
    identity_weight: float = Field(100.0, gt=0, description="lambda, weight of the identity loss")
    iterations: int = Field(1500, ge=0, description="optimisation steps")
    lr: float = Field(
        0.0,
        ge=0,
        description="per-sample step; 0: 2e-3 for ce and poincare, 2e-4 for logit and max_margin; "
        "3.33e-4 is published for faces",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Nesterov momentum")
    clamp: float = Field(1.0, gt=0, description="z is kept within [-clamp, clamp]")
    initial_selection: int = Field(
        0,
        ge=0,
        description="start from the best of this many latents, as the target scores them; 0: at random",
    )

    @property
    def rate(self) -> float:
        """The step asked for, or the one that suits the identity loss."""
        return self.lr or (2e-4 if IDENTITY_LOSSES.get(self.identity_loss).unbounded else 2e-3)


@register("gmi")
class GMI(Attack):
    """Optimises the latent of a WGAN-GP against critic and target."""

    needs = Capabilities(critic=True)
    recipe = WganGp
    Settings = GMISettings
    settings: GMISettings

    def optimise(self, case: Case) -> Tensor:
        """Descend from N(0, I), or from the best candidates."""
        settings = self.settings
        z = case.start(settings.initial_selection)
        velocity = torch.zeros_like(z)
        for _ in case.steps(settings.iterations):
            z = z.detach().requires_grad_(True)
            images = case.images(z)
            loss = case.loss(images, z, settings.identity_weight) - case.realness(images)  # eq. 3-5
            (slope,) = torch.autograd.grad(loss.sum(), z)
            with torch.no_grad():
                # torch.optim.SGD(momentum, nesterov=True), written out so that only z carries state
                velocity.mul_(settings.momentum).add_(slope)
                z = z - settings.rate * (slope + settings.momentum * velocity)
                z = z.clamp_(-settings.clamp, settings.clamp)
        return z
