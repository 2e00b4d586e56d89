"""What an inversion minimises besides its prior: the identity loss over models, views and noise, and the diversity.

Every switch is off by default:

| switch | identity loss of one reconstruction is the mean over |
|---|---|
| ``captures = n`` | the last n captured models of different weights: what one model alone answers to averages out |
| ``augment = K`` | K differentiable augmentations of it (``attacker.losses.augment``) |
| ``students = n`` | the target and n students distilled from it (``attacker.losses.students``) |
| ``noise_draws = n`` | n draws of a VIB head's noise: expectation over transformation, against MID |
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from attacker.losses.augment import NUMBERS, augmented
from attacker.losses.diversity import Diversity, diversity_term
from attacker.losses.identity import IdentityLoss, identity_loss
from attacker.losses.settings import InversionSettings
from attacker.losses.students import distilled
from attacker.streams import Streams, Supply
from attacker.target import PublicSet, Target
from fedinverse.errors import ConfigError
from fedinverse.models import Classifier, Features
from fedinverse.models.vib import SHIFT, VIBHead
from fedinverse.progress import Progress, silent
from fedinverse.seeds import generator
from fedinverse.switches import exact_fp32


@dataclass(frozen=True)
class Objective:
    """The loss of one inversion.

    Attributes:
        models: the target, the earlier captures attacked with it, its students; each with its identity loss.
        captures: how many of the models were captured.
    """

    models: tuple[tuple[Classifier, IdentityLoss], ...]
    captures: int
    diversity: Diversity
    settings: InversionSettings
    device: torch.device

    @property
    def queries(self) -> int:
        """Images sent through captured models for one image of one step."""
        return max(1, self.settings.augment) * self.captures


def objective(
    settings: InversionSettings, target: Target, public: PublicSet, seed: int, progress: Progress = silent
) -> Objective:
    """Return the objective for ``target``; students are distilled or read from the cache.

    Args:
        seed: of the inversion; every consumer draws from a stream of its own label.
        progress: told about distillation.
    """
    device = target.device

    def captured(model: Classifier) -> tuple[Classifier, IdentityLoss]:
        random = generator(seed, "anchor")
        return model, identity_loss(settings.identity_loss, model, public.images, device, random)

    with exact_fp32(device):
        captures = tuple(captured(each.model) for each in (target, *target.earlier))
        students = distilled(settings.students, settings.distillation, target, public, progress)
        diversity = diversity_term(settings.diversity, target, public, generator(seed, "diversity"))
    by_students = tuple((student, IdentityLoss(settings.identity_loss)) for student in students)
    return Objective(captures + by_students, len(captures), diversity, settings, device)


class Loss:
    """The identity loss of one optimisation loop; draws fresh views and noise at every call.

    Args:
        goal: models and switches.
        streams: one per row of the loop.
        samples: images of each row, next to each other in a batch.
    """

    def __init__(self, goal: Objective, streams: Streams, samples: int) -> None:
        self._goal = goal
        self._views, self._draws = goal.settings.augment, goal.settings.noise_draws
        each = samples * max(1, self._views)
        if self._views:
            self._chance = Supply(streams.uniform, (each, NUMBERS), goal.device)
        if self._draws:
            width = _vib_head(goal.models[0][0]).decide.in_features
            self._noise = Supply(streams.normal, (each * self._draws, width), goal.device)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss [N] and the target's penultimate features [N, F] of ``images`` [N, C, H, W].

        Both are means over the views; one value per reconstruction, never averaged over the batch.
        """
        count = len(images)
        if self._views:
            images = augmented(images.repeat_interleave(self._views, 0), self._chance.next().flatten(0, 1))
            labels = labels.repeat_interleave(self._views)
        seen = [model.features(images) for model, _ in self._goal.models]
        if self._draws:
            noise = self._noise.next()
            for number, (model, _) in enumerate(self._goal.models[: self._goal.captures]):
                seen[number] = _noisy(seen[number], model, self._draws, noise)
        losses = []
        for look, (_, identity) in zip(seen, self._goal.models, strict=True):
            draws = len(look.logits) // len(labels)
            loss = identity(look, labels.repeat_interleave(draws) if draws > 1 else labels)
            losses.append(loss.view(count, -1).mean(1) if len(loss) > count else loss)
        features = seen[0].penultimate
        if len(features) > count:
            features = features.view(count, -1, features.shape[1]).mean(1)
        return (losses[0] if len(losses) == 1 else torch.stack(losses).mean(0)), features


def _vib_head(model: Classifier) -> VIBHead:
    head = getattr(model, "head", None)
    if not isinstance(head, VIBHead):
        raise ConfigError("'noise_draws' averages the noise of a VIB head, which the target has not; set it to 0")
    return head


def _noisy(seen: Features, model: Classifier, draws: int, noise: Tensor) -> Features:
    """Return ``seen`` with the logits of ``draws`` noisy bottlenecks per image, side by side."""
    head = _vib_head(model)
    mu, s = head.statistics(seen.penultimate).chunk(2, 1)
    z = mu.repeat_interleave(draws, 0) + F.softplus(s - SHIFT).repeat_interleave(draws, 0) * noise.flatten(0, 1)
    return Features(seen.taps, seen.penultimate.repeat_interleave(draws, 0), head.decide(z))
