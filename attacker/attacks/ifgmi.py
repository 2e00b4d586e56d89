"""IF-GMI: inversion through intermediate features (Qiu et al., ECCV 2024), on top of GMI.

After z, what the generator makes of it is optimised too, level by level: with f_l the features of level l,

min_f  -D(G_l(f)) + lambda L_id(T(G_l(f)), y)   subject to  ||f - f_l||_1 <= radius ||f_l||_1           (eq. 4-6)

where G_l is the rest of the generator. Features say what no z can, so the image fits the target better; the L1 ball
keeps it near what the prior makes.

| differs from the published code | why |
|---|---|
| GMI's DCGAN and critic instead of StyleGAN2 | the priors of this project; StyleGAN2 is published as a pickle only |
| radius relative to ||f_l||_1; published: absolute | the same setting serves every width and level |
"""

import torch
from pydantic import Field
from torch import Tensor

from attacker.attacks.attack import register
from attacker.attacks.case import Case
from attacker.attacks.gmi import GMI, GMISettings
from attacker.priors.dcgan import Generator
from attacker.priors.prior import Prior
from attacker.target import Target
from fedinverse.errors import ConfigError


class IFGMISettings(GMISettings):
    """Settings of IF-GMI: GMI's, and those of the features."""

    levels: int = Field(2, ge=1, description="levels of features optimised, from the smallest on")
    feature_iterations: int = Field(100, ge=0, description="optimisation steps per level")
    feature_lr: float = Field(1e-2, gt=0, description="Adam's learning rate for features")
    radius: float = Field(0.25, gt=0, description="features may move by this share of their L1 norm")


@register("ifgmi")
class IFGMI(GMI):
    """GMI, then its generator's intermediate features inside an L1 ball."""

    Settings = IFGMISettings
    settings: IFGMISettings

    def check(self, target: Target, prior: Prior) -> None:
        """Refuse a generator without levels of features."""
        del target
        if not isinstance(prior.generator, Generator):
            raise ConfigError(f"prior '{prior.name}' has no intermediate features; IF-GMI needs a DCGAN generator")

    def optimise(self, case: Case) -> Tensor:
        """Find z as GMI does, then the features of each level in turn."""
        settings, G = self.settings, case.prior.generator
        assert isinstance(G, Generator)
        z = super().optimise(case)
        with torch.no_grad():
            start = G.begin(z)
        levels = min(settings.levels, G.levels)
        for level in range(levels):
            reach = settings.radius * start.flatten(1).abs().sum(1)
            features = start.clone().requires_grad_(True)
            adam = torch.optim.Adam([features], settings.feature_lr)
            for _ in case.steps(settings.feature_iterations):
                images = G.finish(features, level)
                loss = case.loss(images, z, settings.identity_weight) - case.realness(images)  # eq. 4-6
                (features.grad,) = torch.autograd.grad(loss.sum(), features)
                adam.step()
                with torch.no_grad():
                    features.copy_(start + into_l1_ball(features - start, reach))
            with torch.no_grad():
                if level + 1 < levels:
                    start = G.advance(features, level)
                else:
                    case.keep(G.finish(features, level))
        return z


def into_l1_ball(moves: Tensor, radius: Tensor) -> Tensor:
    """Return the nearest point to each of ``moves`` [N, ...] whose L1 norm is at most ``radius`` [N].

    Duchi et al. 2008: shrink every entry by the theta that leaves the norm at the radius.
    """
    size = moves.flatten(1).abs()
    ordered = size.sort(1, descending=True).values
    excess = ordered.cumsum(1) - radius[:, None]
    rank = torch.arange(1, size.shape[1] + 1, device=size.device)
    kept = (ordered * rank > excess).sum(1, keepdim=True).clamp_min(1)
    theta = (excess.gather(1, kept - 1) / kept).clamp_min(0)
    theta = torch.where(size.sum(1, keepdim=True) <= radius[:, None], 0.0, theta)
    return (moves.flatten(1).sign() * (size - theta).clamp_min(0)).view_as(moves)
