"""IF-GMI: inversion through intermediate features (Qiu et al., ECCV 2024), on top of GMI.

After z, what the generator makes of it is optimised too, level by level and together with z: with f_l(z) the features
of level l and G_l the rest of the generator,

min_{z, d}  -D(G_l(f_l(z) + d)) + lambda L_id(T(G_l(f_l(z) + d)), y)  s. t.  ||d||_1 <= radius ||f_l(z0)||_1   (eq. 4-6)

where z0 is what z was when the level began; what was added at earlier levels stays. Features say what no z can, so the
image fits the target better; the L1 ball keeps it near what the prior makes.

| differs from the published code | why |
|---|---|
| GMI's DCGAN and critic instead of StyleGAN2 | the priors of this project; StyleGAN2 is published as a pickle only |
| z acts through f_l; published: through StyleGAN2's later layers too | a DCGAN's later layers take no z |
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
from fedinverse.optimisers import Adam


class IFGMISettings(GMISettings):
    """Settings of IF-GMI: GMI's, and those of the features."""

    levels: int = Field(2, ge=1, description="levels of features optimised, from the smallest on")
    feature_iterations: int = Field(100, ge=0, description="optimisation steps per level")
    feature_lr: float = Field(1e-2, gt=0, description="Adam's learning rate for features")
    joint: bool = Field(True, description="optimise z together with the features (published); false: features alone")
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
        """Find z as GMI does, then what is added to the features of each level in turn, and z with it."""
        settings, G = self.settings, case.prior.generator
        assert isinstance(G, Generator)
        z = super().optimise(case).requires_grad_(settings.joint)
        added: list[Tensor] = []

        def features() -> Tensor:
            """Return f_l(z), of the level that comes after those in ``added``."""
            hidden = G.begin(z)
            for level, move in enumerate(added):
                hidden = G.advance(hidden + move, level)
            return hidden

        for level in range(min(settings.levels, G.levels)):
            with torch.no_grad():
                start = features()
            reach = settings.radius * start.flatten(1).abs().sum(1)
            move = torch.zeros_like(start).requires_grad_(True)
            free = [move, z] if settings.joint else [move]
            adam = Adam(free, settings.feature_lr)
            for _ in case.steps(settings.feature_iterations):
                images = G.finish(features() + move, level)
                loss = case.loss(images, z, settings.identity_weight) - case.realness(images)  # eq. 4-6
                for variable, slope in zip(free, torch.autograd.grad(loss.sum(), free), strict=True):
                    variable.grad = slope
                adam.step()
                with torch.no_grad():
                    move.copy_(into_l1_ball(move, reach))
                    if settings.joint:
                        z.clamp_(-settings.clamp, settings.clamp)
            with torch.no_grad():
                case.keep(G.finish(features() + move, level))
            added.append(move.detach())
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
