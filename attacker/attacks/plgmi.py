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
from attacker.losses.identity import IdentityName
from attacker.losses.objective import InversionSettings, Objective, account, objective, ready, row_parts
from attacker.priors.plg_gan import ConditionalGenerator, PlgGanSettings, plg_prior
from attacker.priors.prior import Prior
from attacker.streams import Streams
from fedinverse.errors import ConfigError


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

    needs = Capabilities(target_at_prior=True)
    Settings = PLGMISettings
    settings: PLGMISettings

    def own_prior(
        self,
        target: Target | None,
        public: PublicSet,
        seed: int,
        device: torch.device,
        progress: Progress = silent,
    ) -> Prior:
        """Return the conditional GAN made for ``target``, on its device."""
        del device
        if target is None:
            raise ConfigError("PLG-MI trains its prior against the target; give it the captured model")
        return plg_prior(self.settings.prior, target, public, seed=seed, progress=progress)

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
        if not isinstance(network, ConditionalGenerator) or network.classes != target.model.classes:
            raise ConfigError(f"prior '{prior.name}' is not conditional on the target's classes; PLG-MI needs its own")
        streams = Streams.of_labels(labels, generator)
        z = streams.normal(prior.latent).to(target.device)
        goal = objective(settings, target, public, streams, generator, progress=progress)
        on_device = labels.to(target.device)
        for part, classes in row_parts(settings, labels):
            z[part] = self._descend(
                network,
                z[part],
                on_device[part],
                goal=goal.rows(part),
                classes=classes,
                progress=progress,
            )
        return account(
            goal,
            lambda rows: network(z[rows], on_device[rows]),
            z,
            labels,
            watch=watch,
            steps=settings.iterations,
            queries=settings.iterations * len(labels) * goal.cost,
        )

    def _descend(
        self,
        network: ConditionalGenerator,
        z: Tensor,
        labels: Tensor,
        *,
        goal: Objective,
        classes: int,
        progress: Progress,
    ) -> Tensor:
        """Return the optimised latents [N, d] of one batch."""
        settings, identity = self.settings, goal.loss()
        z = z.clone().requires_grad_(True)
        adam = torch.optim.Adam([z], settings.lr)
        for step in range(settings.iterations):
            images = network(z, labels)
            loss, features = identity(images, labels)
            total = loss.sum()
            if goal.diversity.active:
                total = total + goal.diversity.of_rows(images, z, features, classes)
            (z.grad,) = torch.autograd.grad(total, z)
            adam.step()
            progress("PLG-MI", step + 1, settings.iterations)
        return z.detach()
