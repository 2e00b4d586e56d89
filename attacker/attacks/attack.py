"""The contract of a model inversion attack, and the registry that names attacks.

An attack gets a ``Target`` (captured global model), a ``Prior`` over natural images (made from public images) and the
labels to reconstruct; it returns ``Reconstructions``. What an attack needs is declared in ``Capabilities`` and
checked before anything runs.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from attacker.priors.external import external_prior
from attacker.priors.prior import Prior
from fedinverse.config import Section, parse
from fedinverse.errors import ConfigError
from fedinverse.models import Classifier, build, for_inference
from fedinverse.registry import Registry, subclass_of
from fedinverse.storage import into_module, load_weights


@dataclass(frozen=True)
class Target:
    """A captured global model, ready to be differentiated: eval, frozen, BatchNorm folded.

    Attributes:
        model: returns logits and features for images [B, C, H, W] in [0, 1].
        sha256: hash of the captured weights.
        round: the federation round after which the server had this model.
        device: where it lives.
        precision: arithmetic of its gradient steps (``attacker.acceleration.precision``).
        previous: opens the model captured before it, for a prior that starts warm; None: there is none.
    """

    model: Classifier
    sha256: str
    round: int
    device: torch.device
    precision: str = "fp32"
    previous: "Callable[[], Target] | None" = None


def open_target(path: Path, model: str, classes: int, width: float, device: str | torch.device) -> Target:
    """Read captured weights into the network they belong to.

    Raises:
        IntegrityError: damaged file, NaN, or arrays that do not fit the network; names the file.
    """
    weights, metadata = load_weights(path)
    network = build(model, classes, width, seed=0)
    into_module(network, weights, str(path))
    return Target(
        for_inference(network, device),
        metadata["sha256"],
        int(metadata.get("model-round", -1)),
        torch.device(device),
    )


@dataclass(frozen=True)
class PublicSet:
    """The attacker's public images: uint8 [N, C, H, W], channels-last, with the key of their pool and their classes."""

    images: Tensor
    key: str
    class_names: tuple[str, ...] = ()


@dataclass
class Cost:
    """What a reconstruction cost its attacker.

    Attributes:
        seconds: wall time of the inversion.
        target_queries: images sent through the target, backward passes not counted.
        steps: optimisation steps.
        precision: arithmetic of those steps.
    """

    seconds: float = 0.0
    target_queries: int = 0
    steps: int = 0
    precision: str = "fp32"


@dataclass(frozen=True)
class Reconstructions:
    """What an attack made of a target.

    Attributes:
        images: float32 [N, C, H, W] in [0, 1].
        labels: int64 [N], the class each is meant to show.
        latent: float32 [N, d].
        identity_loss: float32 [N], the attacker's own score, lower is better.
        confidence: float32 [N], the target's probability of the label, in [0, 1].
        failed: bool [N]; True where the optimisation met NaN. Such an image is black and never counted.
        cost: seconds, queries, steps.
    """

    images: Tensor
    labels: Tensor
    latent: Tensor
    identity_loss: Tensor
    confidence: Tensor
    failed: Tensor
    cost: Cost = field(default_factory=Cost)


@dataclass(frozen=True)
class Capabilities:
    """What an attack asks of its surroundings.

    Attributes:
        critic: the prior must come with a critic.
        target_at_prior: the prior is trained against the target, once per captured round.
    """

    critic: bool = False
    target_at_prior: bool = False


Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all)."""


def silent(what: str, done: int, total: int) -> None:
    """Report no progress."""
    del what, done, total


class Attack(ABC):
    """A model inversion attack, made from its settings."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Raise it when the attack's code changes what it reconstructs: stored inversions of older versions are then made
    again."""
    needs: ClassVar[Capabilities] = Capabilities()
    Settings: ClassVar[type[Section]]

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def prior(
        self,
        target: Target | None,
        public: PublicSet,
        seed: int,
        device: torch.device,
        progress: Progress = silent,
    ) -> Prior:
        """Return the prior this attack samples from: the external ``generator`` of its settings, or its own.

        Arguments as for ``own_prior``.
        """
        if self.settings.generator:
            return external_prior(self.settings.generator, device)
        return self.own_prior(target, public, seed, device, progress)

    @abstractmethod
    def own_prior(
        self,
        target: Target | None,
        public: PublicSet,
        seed: int,
        device: torch.device,
        progress: Progress = silent,
    ) -> Prior:
        """Return the prior that the paper trains, trained or read from the cache.

        Args:
            target: the captured model; may be None unless ``needs.target_at_prior``.
            public: the attacker's public images.
            seed: run seed.
            device: where to train.
            progress: told about long work.
        """

    @abstractmethod
    def invert(
        self,
        target: Target,
        prior: Prior,
        public: PublicSet,
        labels: Tensor,
        generator: torch.Generator,
        progress: Progress = silent,
    ) -> Reconstructions:
        """Reconstruct one image per entry of ``labels`` [N], all in one batch.

        Args:
            target: bit-identical before and after.
            prior: as ``prior`` returned it.
            public: for reference statistics.
            labels: int64 [N]; a class occurs once per restart.
            generator: CPU generator; the same seed on the same device gives the same images.
            progress: told about long work.
        """


ATTACKS: Registry[type[Attack]] = Registry(
    "attack", "fedinverse.attacks", "a subclass of attacker.attacks.attack.Attack", subclass_of(Attack)
)


def register(name: str) -> Callable[[type[Attack]], type[Attack]]:
    """Register an attack under ``name``."""

    def wrap(attack: type[Attack]) -> type[Attack]:
        ATTACKS.register(name, attack, attack.__module__)
        attack.name = name
        return attack

    return wrap


def attack_names() -> list[str]:
    """Return the names of attacks, sorted."""
    return ATTACKS.names()


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


def check_fit(target: Target, prior: Prior, labels: Tensor, needs: Capabilities = Capabilities()) -> None:
    """Refuse what cannot work, before any work.

    Raises:
        ConfigError: empty class list, a class the target does not have, images of another shape than it takes,
            or a prior without the critic that the attack needs.
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


class Stopwatch:
    """Measures wall seconds between its making and ``seconds``."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._start
