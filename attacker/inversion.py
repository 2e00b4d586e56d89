"""Inverting one target with one attack, and where the result is kept: once per (target hash, attack config hash)."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attacker.attacks.attack import Attack
from attacker.losses.diversity import ClassDiversity, measured_diversity
from attacker.reconstructions import Cost, Reconstructions, unoptimised
from attacker.target import PublicSet, Target
from fedinverse.config import is_file_name
from fedinverse.errors import ConfigError
from fedinverse.layout import ABOUT, PRIOR_ONLY, RECONSTRUCTIONS
from fedinverse.progress import Progress, silent
from fedinverse.records import read_record, write_record
from fedinverse.seeds import generator
from fedinverse.storage import content_sha256, load_weights, save_weights
from fedinverse.words import plain

VERSION = 2  # of what all attacks share; raise it when any code below an attack changes what is reconstructed


@dataclass(frozen=True)
class About:
    """What ``about.json`` says of an inversion.

    Attributes:
        attack: by its registered name.
        settings: of the attack, defaults among them.
        target_sha256: hash of the model.
        model_round: after which the server had it; -1: no round is known.
        captures: rounds of all models inverted together, the target's first.
        seed: of the inversion.
        public: key of the public images.
        shared_classes: classes asked for that the public images have, too.
        prior: key of the prior.
        samples: name of the file of the prior's samples, in the directory above.
        prior_seconds: that its training took, now or before.
        cost: of the inversion itself.
        notes: what was left out or done otherwise.
        failed: reconstructions that failed.
        diversity: measured, by class, on the target's features.
    """

    attack: str
    settings: dict[str, Any]
    target_sha256: str
    model_round: int
    captures: tuple[int, ...]
    seed: int
    public: str
    shared_classes: tuple[str, ...]
    prior: str
    samples: str
    prior_seconds: float
    cost: Cost
    notes: tuple[str, ...]
    failed: int
    diversity: dict[str, ClassDiversity]


@dataclass(frozen=True)
class Inversion:
    """A finished inversion on disk.

    Attributes:
        path: directory of ``reconstructions``, ``prior-only`` (unoptimised samples of the same prior, the same number
            and labels: the control of every figure) and ``about.json``, which is written last.
    """

    path: Path

    @property
    def done(self) -> bool:
        """Whether all of it was written."""
        return (self.path / ABOUT).exists()

    @property
    def lock(self) -> Path:
        """The file that whoever makes this inversion holds locked."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.path.with_name(f".{self.path.name}.lock")

    @property
    def about(self) -> About:
        """Attack, target, costs."""
        return read_record(About, self.path / ABOUT)

    def load(self, name: str = RECONSTRUCTIONS) -> Reconstructions:
        """Read the reconstructions or the prior-only samples; damage raises ``IntegrityError``."""
        arrays, _ = load_weights(self.path / name, finite=False)
        tensors: dict[str, Any] = {key: torch.from_numpy(value) for key, value in arrays.items()}
        return Reconstructions(**tensors, cost=self.about.cost)


def place(
    store: Path,
    label: str,
    attack: Attack,
    table: dict[str, Any],
    target_sha: str,
    labels: Tensor,
    seed: int,
    public: str,
    earlier: Sequence[str] = (),
) -> Inversion:
    """Return where the inversion of that target by ``attack``, made from ``table``, lies, done or not.

    ``earlier`` are the hashes of the models that are inverted together with the target, newest first.
    The versions of the attack's code and of its prior's are part of the place: what an older one made is never taken
    for its result.

    Raises:
        ConfigError: the label is no file name.
    """
    if not is_file_name(label.removeprefix("+")):  # a "+" marks a test that is no attack of the configuration
        raise ConfigError(f"attack label '{plain(label, 60)}' names a directory: use letters, digits and . - _ only")
    depends: dict[str, Any] = {"attack": table, "labels": labels.tolist(), "seed": seed, "public": public}
    if earlier:
        depends["together-with"] = list(earlier)
    config = content_sha256(depends | {"version": [VERSION, attack.version, attack.recipe.version]})
    return Inversion(store / label / f"{target_sha[:16]}-{config[:16]}")


def invert(
    attack: Attack,
    where: Inversion,
    target: Target,
    public: PublicSet,
    labels: Tensor,
    seed: int,
    progress: Progress = silent,
    shared_classes: Sequence[str] = (),
    samples_seed: int | None = None,
) -> None:
    """Run ``attack`` on ``target`` and store the result in ``where``.

    ``shared_classes`` are names of classes to be inverted that the public images show too: the result is marked.
    ``samples_seed`` draws the samples that are kept beside it; None: ``seed`` does.
    """
    prior = attack.prior(target, public, seed, target.device, progress)
    # The stream does not depend on the target, so that every target starts from the same latents: paired figures.
    reconstructions = attack.invert(target, prior, public, labels, generator(seed, "attack", attack.name), progress)
    sampled = prior.sample(len(labels), generator(seed, "attack", attack.name), target.device, labels)
    control = unoptimised(target.model, sampled, labels, target.device)
    with torch.inference_mode():
        parts = reconstructions.images.to(target.device).split(256)
        features = torch.cat([target.model.features(part).penultimate for part in parts]).cpu()
    diversity = measured_diversity(reconstructions.images, features, reconstructions.labels, reconstructions.failed)
    kept = seed if samples_seed is None else samples_seed
    samples = prior.keep_samples(where.path.parent, kept, target.device)
    shutil.rmtree(where.path, ignore_errors=True)
    save_weights(where.path / RECONSTRUCTIONS, reconstructions.arrays)
    save_weights(where.path / PRIOR_ONLY, control.arrays)
    write_record(
        where.path / ABOUT,
        About(
            attack=attack.name,
            settings=attack.settings.model_dump(mode="json"),
            target_sha256=target.sha256,
            model_round=target.round,
            captures=(target.round, *(each.round for each in target.earlier)),
            seed=seed,
            public=public.key,
            shared_classes=tuple(shared_classes),
            prior=prior.key,
            samples=samples,
            prior_seconds=round(prior.seconds, 3),
            cost=reconstructions.cost,
            notes=tuple(reconstructions.notes),
            failed=int(reconstructions.failed.sum()),
            diversity={str(label): of_class for label, of_class in diversity.items()},
        ),
    )
