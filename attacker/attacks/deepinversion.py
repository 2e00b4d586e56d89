"""DeepInversion (Yin et al., "Dreaming to Distill", CVPR 2020): no public images, the target's own statistics instead.

min_x  L_id(T(x), y) + a_tv TV(x) + a_2 ||x||^2 + a_bn sum_l ( ||mu_l(x) - mean_l|| + ||var_l(x) - var_l|| )  (eq. 2-4)

by Adam on pixels. l runs over the BatchNorm layers of T: mu_l and var_l are those of what enters the layer, over the
batch of images; mean_l and var_l are the running statistics in the captured model, which everybody's images moved.
Every step sees the images shifted by a few pixels, and images of colour mirrored every other time. TV is the sum of
the Euclidean norms of the differences to the neighbours on the right, below, and on both diagonals.

With ``bn`` = ``tv`` = ``l2`` = 0 nothing holds an image near what is natural: what an evaluator accepts of such images
is its own gullibility, which the auditor measures with this attack.

| differs from the published code | why |
|---|---|
| x = sigmoid(z), z ~ N(0, I) at first; published: x ~ N(0, 1), clipped afterwards | pixels are in [0, 1] all along |
| the loss is summed over images, the BatchNorm term counts once per image | batch size leaves the balance as it is |
| weights and steps are those published for CIFAR-10 at 32 pixels | ImageNet's are for 224 pixels and 20,000 steps |
| of several captures, the statistics of the newest | the identity loss is joint |
| without BatchNorm in T that term is left out, and the output says so | many federations use GroupNorm |
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from attacker.attacks.attack import Attack, register
from attacker.attacks.case import Case
from attacker.losses.settings import InversionSettings
from attacker.priors.pixels import Pixels, PixelsSettings
from attacker.target import Target
from fedinverse.optimisers import Adam
from fedinverse.seeds import generator

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


class DeepInversionSettings(InversionSettings):
    """Settings of DeepInversion. Defaults are the published values for 32 pixels."""

    prior: PixelsSettings = Field(PixelsSettings(), description="nothing is trained")
    bn: float = Field(10.0, ge=0, description="a_bn, weight of the distance to the BatchNorm statistics")
    tv: float = Field(2.5e-5, ge=0, description="a_tv, weight of the total variation")
    l2: float = Field(3e-8, ge=0, description="a_2, weight of the squared norm")
    iterations: int = Field(2000, ge=0, description="optimisation steps")
    lr: float = Field(0.05, gt=0, description="Adam's learning rate")
    shift: int = Field(2, ge=0, description="every step sees the images shifted by up to this many pixels")


@register("deepinversion")
class DeepInversion(Attack):
    """Optimises pixels against the target and its BatchNorm statistics."""

    recipe = Pixels
    Settings = DeepInversionSettings
    settings: DeepInversionSettings

    def prepared(self, target: Target) -> Target:
        """Return ``target`` with its BatchNorm layers as they were captured, where they are needed."""
        return replace(target, model=target.plain) if self.settings.bn and _layers(target.plain) else target

    def optimise(self, case: Case) -> Tensor:
        """Descend from N(0, I), the sigmoid's argument."""
        settings, random = self.settings, generator(case.seed, "shifts")
        if settings.bn and not _layers(case.target.plain):
            case.note("the target has no BatchNorm layers: DeepInversion went without their statistics")
        z = case.start().requires_grad_(True)
        adam = Adam([z], settings.lr)
        for _ in case.steps(settings.iterations):
            images = case.images(z)
            # A failed image enters as black: its NaN must not reach the others by way of the statistics.
            images = torch.where(images.isfinite().flatten(1).all(1)[:, None, None, None], images, 0.0)
            with statistics(case.target.model) as distances:
                loss = case.loss(jittered(images, settings.shift, random), z)
            loss = loss + settings.tv * variation(images) + settings.l2 * images.flatten(1).square().sum(1)
            total = loss.sum()
            if settings.bn and distances:
                total = total + settings.bn * len(images) * torch.stack(distances).sum()
            (z.grad,) = torch.autograd.grad(total, z)
            adam.step()
        return z


def _layers(model: nn.Module) -> list[BatchNorm]:
    return [m for m in model.modules() if isinstance(m, BatchNorm) and m.running_mean is not None]


@contextmanager
def statistics(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect ||mu_l - mean_l|| + ||var_l - var_l|| of every BatchNorm layer that a pass runs through in a block."""
    distances: list[Tensor] = []

    def noted(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].transpose(0, 1).flatten(1)  # [channels, everything else]
        variance, mean = torch.var_mean(values, 1, correction=0)
        distances.append((mean - layer.running_mean).norm() + (variance - layer.running_var).norm())

    hooks = [layer.register_forward_pre_hook(noted) for layer in _layers(model)]
    try:
        yield distances
    finally:
        for hook in hooks:
            hook.remove()


def jittered(images: Tensor, most: int, random: torch.Generator) -> Tensor:
    """Return ``images`` [N, C, H, W] rolled by up to ``most`` pixels each way, in colour mirrored every other time."""
    down, across, mirrored = (int(torch.randint(-most, most + 1, (), generator=random)) for _ in range(3))
    moved = images.roll((down, across), (2, 3))
    return moved.flip(3) if images.shape[1] == 3 and mirrored % 2 else moved


def variation(images: Tensor) -> Tensor:
    """Return the total variation [N] of ``images`` [N, C, H, W]."""
    pairs = (
        (images[..., 1:], images[..., :-1]),
        (images[..., 1:, :], images[..., :-1, :]),
        (images[..., 1:, 1:], images[..., :-1, :-1]),
        (images[..., 1:, :-1], images[..., :-1, 1:]),
    )
    return torch.stack([(one - other).flatten(1).norm(dim=1) for one, other in pairs]).sum(0)
