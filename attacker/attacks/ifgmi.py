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

from attacker.attacks.attack import (
    Progress,
    PublicSet,
    Reconstructions,
    Stopwatch,
    Target,
    register,
    silent,
)
from attacker.attacks.gmi import GMI, GMISettings
from attacker.losses.objective import Objective, account, ready, row_parts
from attacker.priors.dcgan import Generator
from attacker.priors.prior import Prior
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
        watch, settings = Stopwatch(), self.settings
        target, prior = ready(settings, target, prior, labels, self.needs)
        network = prior.generator
        if not isinstance(network, Generator):
            raise ConfigError(f"prior '{prior.name}' has no intermediate features; IF-GMI needs a DCGAN generator")
        levels = min(settings.levels, network.levels)
        z, goal = self.latents(target, prior, public, labels, generator=generator, progress=progress)
        images = torch.empty(len(labels), *prior.shape, device=z.device)
        for part, classes in row_parts(settings, labels):
            images[part] = self._refine(
                network,
                prior,
                z[part],
                labels[part].to(z.device),
                levels=levels,
                goal=goal.rows(part),
                classes=classes,
                progress=progress,
            )
        steps = levels * settings.feature_iterations
        return account(
            goal,
            lambda rows: images[rows],
            z,
            labels,
            watch=watch,
            steps=settings.iterations + steps,
            queries=self.queries(len(labels)) + steps * len(labels) * max(1, settings.augment),
        )

    def _refine(
        self,
        network: Generator,
        prior: Prior,
        z: Tensor,
        labels: Tensor,
        *,
        levels: int,
        goal: Objective,
        classes: int,
        progress: Progress,
    ) -> Tensor:
        """Return the images [N, C, H, W] of one batch after its features were optimised."""
        settings, critic, identity = self.settings, prior.critic, goal.loss()
        assert critic is not None
        with torch.no_grad():
            features = network.begin(z)
        for level in range(levels):
            start = features
            reach = settings.radius * start.flatten(1).abs().sum(1)
            features = start.clone().requires_grad_(True)
            adam = torch.optim.Adam([features], settings.feature_lr)
            for step in range(settings.feature_iterations):
                images = network.finish(features, level)
                loss, seen = identity(images, labels)
                total = (settings.identity_weight * loss - critic(images)).sum()
                if goal.diversity.active:
                    total = total + goal.diversity.of_rows(images, z, seen, classes)
                (features.grad,) = torch.autograd.grad(total, features)
                adam.step()
                with torch.no_grad():
                    features.copy_(start + into_l1_ball(features - start, reach))
                progress("IF-GMI", level * settings.feature_iterations + step + 1, levels * settings.feature_iterations)
            with torch.no_grad():
                features = network.advance(features, level) if level + 1 < levels else features.detach()
        with torch.no_grad():
            return network.finish(features, levels - 1)


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
