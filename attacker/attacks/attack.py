"""The contract of a model inversion attack, what all attacks share, and the registry that names them.

An attack gets a ``Target`` (captured global model), a ``Prior`` over natural images (made from public images) and the
labels to reconstruct; it returns ``Reconstructions``. A paper's file says its settings, its ``recipe`` (how its prior
is trained) and its loop, ``optimise``. Checks, arithmetic, batches, random streams, the account and failures are here.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attacker.acceleration import Steps, in_compiled, in_precision
from attacker.attacks.case import Case, Problem, class_parts, row_parts
from attacker.losses.diversity import layout
from attacker.losses.objective import Objective, objective
from attacker.losses.settings import InversionSettings
from attacker.priors.external import external_prior
from attacker.priors.prior import Prior, PriorTrainer, is_trained, samples_of, trained_prior
from attacker.reconstructions import Cost, Reconstructions, scored
from attacker.streams import Streams, occurrences
from attacker.target import PublicSet, Stopwatch, Target
from fedinverse.config import Section, parse
from fedinverse.errors import ConfigError
from fedinverse.progress import Progress, silent
from fedinverse.registry import Registry, subclass_of
from fedinverse.switches import deterministic, exact_fp32


@dataclass(frozen=True)
class Capabilities:
    """What an attack asks of its surroundings.

    Attributes:
        critic: the prior must come with a critic.
        target_at_prior: the prior is trained against the target, once per captured round.
        conditional: the generator must make images of a class on demand.
    """

    critic: bool = False
    target_at_prior: bool = False
    conditional: bool = False


class Attack(ABC):
    """A model inversion attack, made from its settings.

    Attributes:
        name: what it is registered under.
        version: part of the key of its inversions; raise it when the code changes what it reconstructs.
        needs: what it asks of its surroundings.
        recipe: how the paper trains its prior.
        per_class: whether it fits one distribution per class, whose samples are the restarts.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    needs: ClassVar[Capabilities] = Capabilities()
    recipe: ClassVar[type[PriorTrainer]]
    per_class: ClassVar[bool] = False
    Settings: ClassVar[type[Section]]

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @property
    def table(self) -> dict[str, Any]:
        """Its complete table of a configuration: what identifies its inversions."""
        return {"kind": self.name, **self.settings.model_dump(mode="json")}

    @abstractmethod
    def optimise(self, case: Case) -> Tensor:
        """Return the latents found for the rows of ``case``: [N, d], or [N, restarts, d] of an attack ``per_class``."""

    def prepared(self, target: Target) -> Target:
        """Return ``target`` as the attack wants it: as it is, BatchNorm folded."""
        return target

    def check(self, target: Target, prior: Prior) -> None:
        """Refuse a prior or target that the attack cannot work with, beyond ``needs``; raises ``ConfigError``."""
        del target, prior

    def prior(
        self,
        target: Target | None,
        public: PublicSet,
        seed: int,
        device: torch.device,
        progress: Progress = silent,
    ) -> Prior:
        """Return the prior this attack samples from: the external ``generator`` of its settings, or the paper's.

        Arguments and errors as for ``trained_prior``.

        Raises:
            ConfigError: also where deterministic kernels are wanted of a training that has none on CUDA.
        """
        if self.settings.generator:
            return external_prior(self.settings.generator, device)
        if self.recipe.rotates and device.type == "cuda" and self.settings.deterministic:
            raise ConfigError(
                f"'deterministic' cannot be had on CUDA from '{self.name}', which trains its prior on rotated views: "
                "their gradient has no deterministic kernel there; invert on the CPU, or leave deterministic off"
            )
        with deterministic(self.settings.deterministic):
            return trained_prior(self.recipe(self.settings.prior), target, public, seed, device, progress)

    def has_prior(self, public: PublicSet, seed: int) -> bool:
        """Return whether the prior is there and need not be trained; one that needs the target is trained per round."""
        if self.settings.generator:
            return True
        return not self.needs.target_at_prior and is_trained(self.recipe(self.settings.prior), public, seed)

    def samples_name(self, public: PublicSet, seed: int) -> str | None:
        """Return the file of samples that an inversion will leave; None: the inversion alone knows its prior."""
        if self.settings.generator or self.needs.target_at_prior:
            return None
        return samples_of(self.recipe(self.settings.prior), public, seed)

    def invert(
        self,
        target: Target,
        prior: Prior,
        public: PublicSet,
        labels: Tensor,
        generator: torch.Generator,
        progress: Progress = silent,
    ) -> Reconstructions:
        """Reconstruct one image per entry of ``labels`` [N], all in one batch if the memory budget allows.

        Args:
            target: bit-identical before and after.
            prior: as ``prior`` returned it.
            labels: int64 [N]; a class occurs once per restart.
            generator: CPU generator that seeds the inversion.

        Raises:
            ConfigError: target, prior, labels and settings do not fit together.
        """
        settings: InversionSettings = self.settings
        check_fit(target, prior, labels, self.needs)
        self.check(target, prior)
        target = self.prepared(target)
        check_deterministic(settings, target.device)
        watch, seed = Stopwatch(), int(torch.randint(2**62, (), generator=generator))
        with deterministic(settings.deterministic), exact_fp32(target.device):
            identity = settings.identity_loss
            with (
                in_precision(settings.precision, Steps(target, prior), labels, identity) as lowered,
                in_compiled(settings.compile, lowered, labels, identity) as steps,
            ):
                goal = objective(settings, steps.target, public, seed, progress)
                problem = self._problem(steps, goal, labels, seed, progress)
                if goal.captures < settings.captures:
                    problem.notes[
                        f"{goal.captures} of the {settings.captures} captures asked for: no more of different weights"
                    ] = None
                latent, images = self._solve(problem, labels)
            if images is None:
                images = prior.all_images(latent, labels.to(target.device), settings.max_batch)
            cost = Cost(watch.seconds, problem.queries + len(labels) * goal.captures, problem.done, steps.arithmetic)
            return scored(goal, images, latent, labels, cost, tuple(problem.notes))

    def _problem(self, steps: Steps, goal: Objective, labels: Tensor, seed: int, progress: Progress) -> Problem:
        """Return the inversion of ``labels``: a row per reconstruction, or per class."""
        rows, restart, restarts = labels, occurrences(labels), 1
        if self.per_class:
            placed = layout(labels)
            rows, restart, restarts = placed.classes, torch.zeros_like(placed.classes), placed.samples
        streams, samples = Streams.of_labels(rows, seed), self.settings.samples
        return Problem(steps, goal, rows, restart, samples, restarts, streams, seed, progress)

    def _solve(self, problem: Problem, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the latents [N, d] of ``labels`` and, where the attack says so itself, their images."""
        parts = class_parts(self.settings, len(problem.labels)) if self.per_class else row_parts(self.settings, labels)
        latents: list[Tensor] = []
        pictures: list[Tensor] = []
        for rows, classes in parts:
            case = Case(problem, rows, classes)
            latents.append(self.optimise(case).detach())
            pictures += [] if case.pictures is None else [case.pictures]
        # Batches of a diversity term take rows in another order than the labels.
        place = torch.cat([rows for rows, _ in parts]).argsort().to(problem.steps.target.device)
        latent = torch.cat(latents)[place]
        if self.per_class:
            placed = layout(labels)
            latent = latent[placed.column, placed.restart]
        return latent, torch.cat(pictures)[place] if pictures else None


def check_fit(target: Target, prior: Prior, labels: Tensor, needs: Capabilities = Capabilities()) -> None:
    """Refuse what cannot work, before any work.

    Raises:
        ConfigError: empty class list, a class the target does not have, images of another shape than it takes, a
            prior without the critic that the attack needs, or one that knows other classes than the target.
    """
    if needs.critic and prior.critic is None:
        raise ConfigError(
            f"prior '{prior.name}' has no critic, which this attack needs; choose one trained with a critic"
        )
    if len(labels) == 0:
        raise ConfigError("the list of classes to invert is empty; name at least one")
    if int(labels.max()) >= target.model.classes or int(labels.min()) < 0:
        raise ConfigError(
            f"class {int(labels.max())} cannot be inverted: the target has classes 0 to {target.model.classes - 1}"
        )
    if prior.shape != target.model.input_shape:
        raise ConfigError(
            f"prior '{prior.name}' makes images {prior.shape} but the target takes {target.model.input_shape}; "
            "train a prior on images of that shape"
        )
    if prior.conditional != target.model.classes and (prior.conditional or needs.conditional):
        raise ConfigError(
            f"prior '{prior.name}' is not conditional on the target's {target.model.classes} classes; "
            "PLG-MI needs the prior that it trains itself"
        )


def check_deterministic(settings: InversionSettings, device: torch.device) -> None:
    """Refuse ``deterministic`` where PyTorch has no deterministic gradient; raises ``ConfigError``."""
    if settings.deterministic and settings.augment and device.type == "cuda":
        raise ConfigError(
            "'deterministic' and 'augment' exclude each other on CUDA: the gradient of a rotated view has no "
            "deterministic kernel there; set augment = 0, invert on the CPU, or leave deterministic off"
        )


ATTACKS: Registry[type[Attack]] = Registry(
    "attack", "fedinverse.attacks", "a subclass of attacker.attacks.attack.Attack", subclass_of(Attack)
)


register, attack_names = ATTACKS.named, ATTACKS.names


def make_attack(table: dict[str, Any], where: str, origin: str) -> Attack:
    """Build an attack from its config table (``kind`` names it, the rest are its settings).

    Raises:
        ConfigError: unknown kind or setting; names ``origin``, the key and the nearest valid one.
    """
    settings = dict(table)
    kind = settings.pop("kind", None)
    try:
        chosen = ATTACKS.get(str(kind))
    except ConfigError as error:
        raise ConfigError(f"{origin}: '{where}.kind': {error}") from None
    return chosen(parse(chosen.Settings, settings, where, origin))
