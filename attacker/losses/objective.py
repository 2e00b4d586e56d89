"""What an inversion asks of the target: its identity loss over models, views and noise; and the final account.

Shared by the attacks, so that each of them reads like its paper. Every switch is off by default:

| switch | identity loss of one reconstruction is the mean over |
|---|---|
| ``augment = K`` | K differentiable augmentations of it (``attacker.losses.augment``) |
| ``students = n`` | the target and n students distilled from it (``attacker.losses.students``) |
| ``noise_draws = n`` | n draws of a VIB head's noise: expectation over transformation, against MID |
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from attacker.acceleration.compiled import Compile, in_compiled
from attacker.acceleration.precision import Precision, in_precision
from attacker.attacks.attack import (
    Capabilities,
    Cost,
    Progress,
    PublicSet,
    Reconstructions,
    Stopwatch,
    Target,
    check_fit,
    silent,
)
from attacker.losses.augment import NUMBERS, augmented
from attacker.losses.diversity import Diversity, DiversitySettings, blocks, diversity_term, layout
from attacker.losses.identity import IdentityLoss, IdentityName, identity_loss
from attacker.losses.students import DistillationSettings, distilled
from attacker.priors.prior import Prior
from attacker.streams import Streams, Supply
from fedinverse.config import Section
from fedinverse.errors import ConfigError
from fedinverse.models import Classifier, Features
from fedinverse.models.vib import SHIFT, VIBHead


class InversionSettings(Section):
    """What every attack can be told."""

    generator: str = Field("", description="key of a generator added with 'fedinverse prior add', in the prior's place")
    identity_loss: IdentityName = Field("ce", description="ce (published), logit, max_margin or poincare")
    augment: int = Field(0, ge=0, description="average the identity loss over this many augmented views; 0: off")
    students: int = Field(0, ge=0, description="invert this many distilled students with the target; 0: off")
    distillation: DistillationSettings = Field(DistillationSettings(), description="how students are distilled")
    noise_draws: int = Field(
        0,
        ge=0,
        description="average the identity loss over this many draws of a VIB head's noise; 0: its mean",
    )
    diversity: DiversitySettings = Field(DiversitySettings(), description="FedInverse's diversity regulariser")
    precision: Precision = Field("fp32", description="of gradient steps: fp32, tf32, bf16 or auto; the latter checked")
    compile: Compile = Field(
        "off", description="gradient steps through torch.compile: off, on, or auto (CUDA); checked"
    )
    max_batch: int = Field(1024, ge=1, description="memory budget: at most this many images at once")

    @property
    def fits(self) -> int:
        """How many reconstructions fit the memory budget when each has ``augment`` views."""
        return max(1, self.max_batch // max(1, self.augment))


@dataclass(frozen=True)
class Objective:
    """The identity loss of a batch of reconstructions, C streams with S reconstructions each, next to each other.

    Attributes:
        models: the target, then its students; each with its loss.
        streams: one per class (distributions) or per reconstruction (single latents, S = 1).
        settings: the switches.
        target: the captured model.
        diversity: the regulariser.
    """

    models: list[tuple[Classifier, IdentityLoss]]
    streams: Streams
    settings: InversionSettings
    target: Target
    diversity: Diversity

    def rows(self, rows: Tensor) -> "Objective":
        """Return the objective of the streams ``rows``."""
        models = [(model, loss.of(rows)) for model, loss in self.models]
        return replace(self, models=models, streams=self.streams.rows(rows))

    def loss(self, samples: int = 1) -> "Loss":
        """Return the loss of the streams with ``samples`` reconstructions each, for one optimisation loop."""
        return Loss(self, samples)

    @property
    def cost(self) -> int:
        """Images sent through the target per reconstruction and step."""
        return max(1, self.settings.augment)


class Loss:
    """Identity loss of one optimisation loop; draws fresh views and noise at every call."""

    def __init__(self, objective: Objective, samples: int) -> None:
        self._models, settings = objective.models, objective.settings
        self._views, self._draws = settings.augment, settings.noise_draws
        self._each = samples * max(1, self._views)
        device, streams = objective.target.device, objective.streams
        if self._views:
            self._chance = Supply(streams.uniform, (self._each, NUMBERS), device)
        if self._draws:
            width = _vib_head(objective.target.model).decide.in_features
            self._noise = Supply(streams.normal, (self._each * self._draws, width), device)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss [N] and the target's penultimate features [N, F] of ``images`` [N, C, H, W].

        Both are means over the views; one value per reconstruction, never averaged over the batch.
        """
        count, views = len(images), max(1, self._views)
        if self._views:
            images = images.repeat_interleave(views, 0)
            images = augmented(images, self._chance.next().flatten(0, 1))
            labels = labels.repeat_interleave(views)
        seen = [model.features(images) for model, _ in self._models]
        if self._draws:
            seen[0] = _noisy(seen[0], self._models[0][0], self._draws, self._noise.next())
        losses = []
        for look, (_, loss) in zip(seen, self._models, strict=True):
            draws = len(look.logits) // len(labels)
            own = loss(look, labels.repeat_interleave(draws) if draws > 1 else labels)
            losses.append(own.view(count, -1).mean(1) if len(own) > count else own)
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


def ready(
    settings: InversionSettings, target: Target, prior: Prior, labels: Tensor, needs: Capabilities
) -> tuple[Target, Prior]:
    """Check that all fits; return target and prior in the precision asked for, compiled if asked for.

    Raises:
        ConfigError: see ``check_fit``, ``in_precision`` and ``in_compiled``.
    """
    check_fit(target, prior, labels, needs)
    target, prior = in_precision(settings.precision, target, prior, labels, settings.identity_loss)
    return in_compiled(settings.compile, target, prior, labels, settings.identity_loss)


def objective(
    settings: InversionSettings,
    target: Target,
    public: PublicSet,
    streams: Streams,
    generator: torch.Generator,
    *,
    progress: Progress = silent,
) -> Objective:
    """Return the objective for ``target``; students are distilled or read from the cache.

    Raises:
        ConfigError: ``noise_draws`` without a VIB head, or students that do not fit the target.
    """
    if settings.noise_draws:
        _vib_head(target.model)
    students = distilled(settings.students, settings.distillation, target, public, progress)
    models = [
        (model, identity_loss(settings.identity_loss, model, public.images, streams, generator))
        for model in (target.model, *students)
    ]
    return Objective(models, streams, settings, target, diversity_term(settings.diversity, target, public, generator))


def row_parts(settings: InversionSettings, labels: Tensor) -> list[tuple[Tensor, int]]:
    """Cut reconstructions with ``labels`` [N] into batches that fit the memory budget.

    Returns:
        The rows of each batch and, for the grid of a diversity term, how many classes they hold, class by class.

    Raises:
        ConfigError: the diversity term couples more than fits, or classes do not occur equally often.
    """
    if not settings.diversity.active:
        return [(rows, len(rows)) for rows in torch.split(torch.arange(len(labels)), settings.fits)]
    grid = layout(labels).grid()
    cuts = blocks(settings.diversity, len(grid), grid.shape[1], settings.fits)
    return [(grid[cut].flatten(), len(grid[cut])) for cut in cuts]


def class_parts(settings: InversionSettings, classes: int, draws: int) -> tuple[Tensor, ...]:
    """Cut ``classes`` distributions with ``draws`` samples a step into batches that fit the memory budget.

    Raises:
        ConfigError: the diversity term couples more than fits.
    """
    if settings.diversity.active:
        cuts = blocks(settings.diversity, classes, draws, settings.fits)
        if settings.diversity.measure != "hsic" and len(cuts) > 1:
            raise ConfigError(
                f"diversity measure '{settings.diversity.measure}' couples {classes} classes with {draws} draws; "
                "raise 'max_batch' to hold them"
            )
    return torch.split(torch.arange(classes), max(1, settings.fits // draws))


def account(
    objective: Objective,
    generate: Callable[[Tensor], Tensor],
    latent: Tensor,
    labels: Tensor,
    *,
    stream: Tensor | None = None,
    watch: Stopwatch,
    steps: int,
    queries: int,
) -> Reconstructions:
    """Make the images of ``latent`` and score them, unaugmented and by the target alone.

    Args:
        objective: whose target scores, by its own identity loss; one stream per class or per reconstruction.
        generate: rows, int64 [n] -> their images [n, C, H, W] in [0, 1].
        latent: [N, d] on the target's device.
        labels: int64 [N].
        stream: int64 [N], which of the objective's streams each belongs to; None: its own.
        watch: started with the attack.
        steps: optimisation steps done.
        queries: images the steps sent through the target.
    """
    model, identity = objective.models[0]
    labels = labels.to(latent.device)
    stream = torch.arange(len(labels)) if stream is None else stream
    images_, scores_, confidence_ = [], [], []
    with torch.inference_mode():
        for part in torch.split(torch.arange(len(labels)), objective.settings.max_batch):
            images = generate(part)
            seen = model.features(images)
            images_.append(images)
            scores_.append(identity.of(stream[part])(seen, labels[part]))
            confidence_.append(seen.logits.softmax(1).gather(1, labels[part, None]).squeeze(1))
        images, scores = torch.cat(images_), torch.cat(scores_)
        failed = ~torch.isfinite(scores) | ~torch.isfinite(images).flatten(1).all(1)
        images = torch.where(failed[:, None, None, None], torch.zeros_like(images), images)
    kept = (images, labels, latent.detach(), scores, torch.cat(confidence_), failed)
    parts = [value.cpu().clone() for value in kept]
    cost = Cost(watch.seconds, queries + len(labels), steps, objective.target.precision)
    return Reconstructions(parts[0], parts[1], parts[2], parts[3], parts[4], parts[5], cost)
