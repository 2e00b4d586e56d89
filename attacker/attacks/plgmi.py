"""PLG-MI: pseudo label-guided model inversion (Yuan et al., AAAI 2023).

min_z  mean_i L_maxmargin(T(A_i(G(z, y))), y),  z0 ~ N(0, I)                                            (eq. 5-6)

with Adam, where G is conditional and was led by the target when it was trained (``attacker.priors.plg_gan``): it
already knows what class y looks like, so z is all that is left to find. A_i are random augmentations.

| differs from the published code | why |
|---|---|
| T, G frozen, in eval; summed loss | T stays bit-identical; batch composition must not matter |
| every restart is reported; published code keeps the best by the evaluator | attackers have no evaluator |
| rotations, shifts and tones instead of crops and flips | one set for all attacks; digits do not flip |
"""

import torch
from pydantic import Field
from torch import Tensor

from attacker.attacks.attack import Attack, Capabilities, register
from attacker.attacks.case import Case
from attacker.losses.identity import IdentityName
from attacker.losses.settings import InversionSettings
from attacker.priors.plg_gan import PlgGan, PlgGanSettings
from fedinverse.optimisers import Adam


class PLGMISettings(InversionSettings):
    """Settings of PLG-MI. Defaults are the published values."""

    prior: PlgGanSettings = Field(PlgGanSettings(), description="training of the conditional GAN")
    identity_loss: IdentityName = Field("max_margin", description="max_margin (published), ce, logit or poincare")
    augment: int = Field(2, ge=0, description="average the identity loss over this many augmented views; 0: off")
    iterations: int = Field(600, ge=0, description="optimisation steps")
    lr: float = Field(0.1, gt=0, description="Adam's learning rate")


@register("plgmi")
class PLGMI(Attack):
    """Optimises the latent of a conditional GAN that the target labelled and led."""

    needs = Capabilities(target_at_prior=True, conditional=True)
    recipe = PlgGan
    Settings = PLGMISettings
    settings: PLGMISettings

    def optimise(self, case: Case) -> Tensor:
        """Descend from N(0, I)."""
        z = case.start().requires_grad_(True)
        adam = Adam([z], self.settings.lr)
        for _ in case.steps(self.settings.iterations):
            loss = case.loss(case.images(z), z)  # eq. 5-6
            (z.grad,) = torch.autograd.grad(loss.sum(), z)
            adam.step()
        return z
