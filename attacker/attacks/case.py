"""One batch of an inversion, as a paper's loop sees it: labels, prior, loss, fresh noise. The rest is the base's."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from attacker.acceleration import Steps
from attacker.attacks.selection import Candidates
from attacker.losses.diversity import blocks, layout
from attacker.losses.objective import Loss, Objective
from attacker.losses.settings import InversionSettings
from attacker.priors.prior import Prior
from attacker.streams import Streams, Supply
from attacker.target import Target
from fedinverse.errors import ConfigError
from fedinverse.progress import Progress
from fedinverse.seeds import generator


@dataclass
class Problem:
    """A whole inversion.

    Attributes:
        steps: target and prior in the arithmetic of the gradient steps.
        labels: int64 [R], the class of each row: a reconstruction, or a class's distribution.
        restart: int64 [R], how often the row's class occurred before it.
        samples: images of each row in a step.
        restarts: reconstructions asked for of each row; 1 unless rows are distributions.
        streams: one per row.
        seed: of what rows share.
        progress: told after every step.
        done: optimisation steps so far, of the batch that took most.
        queries: images sent through captured models so far.
        notes: what was left out or done otherwise, for whoever reads the result.
    """

    steps: Steps
    goal: Objective
    labels: Tensor
    restart: Tensor
    samples: int
    restarts: int
    streams: Streams
    seed: int
    progress: Progress
    done: int = 0
    queries: int = 0
    notes: dict[str, None] = field(default_factory=dict)
    _candidates: Candidates | None = field(default=None, repr=False)

    def candidates(self, count: int) -> Candidates:
        """Return the ``count`` latents that every batch may start from."""
        if self._candidates is None:
            random = generator(self.seed, "initial selection")
            self._candidates = Candidates(self.steps.target, self.steps.prior, count, random)
            self.queries += self._candidates.queries
        return self._candidates


class Case:
    """What is reconstructed together, on the target's device.

    Args:
        problem: the inversion that this is a batch of.
        rows: int64 [N], rows of the problem.
        classes: how many classes the rows hold, class by class: the grid of a diversity term.

    Attributes:
        labels: int64 [N], the class of each row.
        restarts: reconstructions asked for of each row.
        pictures: images [N, C, H, W] that stand for the latents, if ``keep`` was called.
    """

    def __init__(self, problem: Problem, rows: Tensor, classes: int) -> None:
        self._problem, self._rows, self._classes, self._done = problem, rows, classes, 0
        self.target: Target = problem.steps.target
        self.prior: Prior = problem.steps.prior
        self.device = self.target.device
        self.labels = problem.labels[rows].to(self.device)
        self.restarts, self.seed = problem.restarts, problem.seed
        self.pictures: Tensor | None = None
        self._of_images = self.labels.repeat_interleave(problem.samples)
        self._streams = problem.streams.rows(rows)
        self._loss = Loss(problem.goal, self._streams, problem.samples)
        self._noise = Supply(self._streams.normal, (problem.samples, self.prior.latent), self.device)

    def start(self, candidates: int = 0) -> Tensor:
        """Return latents [N, d] to start from: N(0, I), or the best of that many candidates in the target's eyes."""
        if candidates:
            restart = self._problem.restart[self._rows]
            return self._problem.candidates(candidates).best(self.labels, restart)
        return self._streams.normal(self.prior.latent).to(self.device)

    def noise(self) -> Tensor:
        """Return fresh N(0, I) numbers [N, samples, d] for one step."""
        return self._noise.next()

    def final_noise(self, size: int) -> Tensor:
        """Return N(0, I) numbers [N, restarts, size]; the first restarts are the same however many are asked for."""
        return self._streams.restarts(self.restarts, size).to(self.device)

    def steps(self, count: int) -> Iterator[int]:
        """Yield 0 to ``count`` - 1, counting and reporting the steps."""
        before = self._done
        for step in range(count):
            self._done += 1  # before the step: a loop may break out of it
            self._problem.done = max(self._problem.done, self._done)
            yield step
            self._problem.progress("optimising", self._done, before + count)

    def images(self, z: Tensor) -> Tensor:
        """Return what the prior makes of ``z`` [N, d] or [N, samples, d], [N (samples), C, H, W] in [0, 1]."""
        return self.prior.images(z.flatten(0, -2), self.labels if z.dim() == 2 else self._of_images)

    def realness(self, images: Tensor) -> Tensor:
        """Return the critic's score [n] of ``images``; higher is more natural."""
        critic = self.prior.critic
        assert isinstance(critic, nn.Module)
        score: Tensor = critic(images)
        return score

    def loss(self, images: Tensor, z: Tensor, weight: float = 1.0) -> Tensor:
        """Return weight x identity loss + diversity of ``images`` [n, C, H, W] that came from ``z``, one value each.

        A loop sums it over reconstructions, or averages it over a class's samples and sums over classes. An active
        diversity term is spread evenly over the images, so that either comes to the term as it is defined.
        """
        goal = self._problem.goal
        self._problem.queries += len(images) * goal.queries
        identity, features = self._loss(images, self._of_images)
        loss = weight * identity
        if goal.diversity.active:
            cells = (self._classes, len(images) // self._classes)
            term = goal.diversity(
                images.unflatten(0, cells), z.reshape(*cells, z.shape[-1]), features.unflatten(0, cells)
            )
            loss = loss + term / self._classes
        return loss

    def note(self, what: str) -> None:
        """Say with the result that something was left out or done otherwise; said once however often it happens."""
        self._problem.notes[what] = None

    def keep(self, images: Tensor) -> None:
        """Say that ``images`` [N, C, H, W] are the reconstructions, not what the prior makes of the latents."""
        self.pictures = images.detach()


def row_parts(settings: InversionSettings, labels: Tensor) -> list[tuple[Tensor, int]]:
    """Cut reconstructions with ``labels`` [N] into batches.

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


def class_parts(settings: InversionSettings, classes: int) -> list[tuple[Tensor, int]]:
    """Cut ``classes`` distributions into batches; as ``row_parts``, with distributions for rows.

    Raises:
        ConfigError: the diversity term couples more than fits.
    """
    if settings.diversity.active:
        cuts = blocks(settings.diversity, classes, settings.samples, settings.fits)
        if settings.diversity.measure != "hsic" and len(cuts) > 1:
            raise ConfigError(
                f"diversity measure '{settings.diversity.measure}' couples {classes} classes with {settings.samples} "
                "draws; raise 'max_batch' to hold them"
            )
    parts = torch.split(torch.arange(classes), max(1, settings.fits // settings.samples))
    return [(part, len(part)) for part in parts]
