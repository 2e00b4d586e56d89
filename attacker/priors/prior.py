"""A prior: a generator from a standard normal latent to images, perhaps with its critic; trained once and cached.

A paper's prior is a ``PriorTrainer``: its networks and its training loop. ``trained_prior`` does what they share:
seeds, cache, progress, arithmetic (part of the key, so that one key names one prior), networks ready for inference.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from attacker.priors.checkpoint import Checkpoint
from attacker.priors.shipped import Shipped, shipped_prior
from attacker.target import PublicSet, Target
from fedinverse.data.source import cache_directory, unit
from fedinverse.errors import ConfigError, IntegrityError
from fedinverse.machine import sent
from fedinverse.models import for_inference
from fedinverse.progress import Progress, silent
from fedinverse.seeds import derive, generator, seeded
from fedinverse.storage import (
    content_sha256,
    into_module,
    load_weights,
    read_object,
    save_weights,
    to_weights,
    write_json,
)
from fedinverse.switches import tf32

LATENT = 100  # dimension of z in the inversion papers
_BATCH = 256  # unoptimised samples made at once
SAMPLES = 512  # unoptimised images kept beside the inversions
_EVERY = 1.0  # seconds between two notes of how far a training is


@dataclass(frozen=True)
class Prior:
    """A trained generator, with its critic where the attack needs one.

    Attributes:
        generator: z [N, latent] from N(0, I) -> images [N, C, H, W] in [0, 1]; a conditional one also takes labels [N].
        critic: images -> realness [N], higher is more natural; None if there is none.
        latent: dimension of z.
        shape: (C, H, W) of the images.
        key: hash of everything it was made from.
        seconds: what training it cost, now or when it came into the cache; 0 for one made elsewhere.
        conditional: number of classes that the generator makes on demand; 0: it knows no classes.
    """

    name: str
    generator: nn.Module
    critic: nn.Module | None
    latent: int
    shape: tuple[int, int, int]
    key: str
    seconds: float = 0.0
    conditional: int = 0

    def images(self, z: Tensor, labels: Tensor) -> Tensor:
        """Return the images [N, C, H, W] in [0, 1] of ``z`` [N, latent], of the classes ``labels`` [N] where it can."""
        images: Tensor = self.generator(z, labels) if self.conditional else self.generator(z)
        return images

    def sample(self, count: int, random: torch.Generator, device: torch.device, labels: Tensor | None = None) -> Tensor:
        """Return ``count`` unoptimised images [count, C, H, W] in [0, 1].

        Args:
            random: CPU generator of the latents.
            labels: int64 [count], the classes a conditional prior is asked for; None: its classes in turn.
        """
        z = torch.randn(count, self.latent, generator=random).to(device)
        wanted = torch.arange(count) % max(1, self.conditional) if labels is None else labels
        return self.all_images(z, wanted.to(device), _BATCH)

    @torch.no_grad()
    def all_images(self, z: Tensor, labels: Tensor, batch: int) -> Tensor:
        """Return the images of ``z`` without gradients, at most ``batch`` at once; see ``images``."""
        parts = zip(z.split(batch), labels.split(batch), strict=True)
        return torch.cat([self.images(*part) for part in parts])

    def keep_samples(self, store: Path, seed: int, device: torch.device) -> str:
        """Write ``SAMPLES`` unoptimised images, uint8 [N, C, H, W], to ``store``, unless they are there.

        They are drawn from another stream than the samples an inversion starts from. Whoever judges reconstructions can
        learn from them what an image is that shows nothing; nothing of the attack itself reads them.

        Returns:
            The name of the file, which the prior's key gives.
        """
        path = store / samples_name(self.key)
        if not path.exists():
            images = self.sample(SAMPLES, generator(seed, "samples", self.key), device)
            pixels = images.clamp(0, 1).mul(255).round().to(torch.uint8).cpu().contiguous()
            save_weights(path, {"images": pixels.numpy()}, {"prior": self.key})
        return path.name


def samples_name(key: str) -> str:
    """Return the name of the file of unoptimised samples of the prior with that key."""
    return f"samples-{key[:16]}.safetensors"


@dataclass(frozen=True)
class Training:
    """What a prior is trained on.

    Attributes:
        images: the public images, uint8 [N, C, H, W], on the device.
        target: the captured model; None for a prior that needs none.
        public: where the images come from.
        random: CPU generator of all noise and batches.
        checkpoint: from which the training goes on after a kill.
    """

    images: Tensor
    target: Target | None
    public: PublicSet
    device: torch.device
    random: torch.Generator
    progress: Progress
    checkpoint: Checkpoint

    @property
    def victim(self) -> Target:
        """The captured model, for a prior that is trained against it."""
        assert self.target is not None
        return self.target

    def steps(
        self,
        total: int,
        what: str,
        networks: Mapping[str, nn.Module],
        optimisers: Mapping[str, torch.optim.Optimizer],
    ) -> Iterator[int]:
        """Yield the steps of the training, those that a killed one did left out; see ``Checkpoint.steps``."""
        return self.checkpoint.steps(total, what, self.progress, networks, optimisers)

    def noise(self, *shape: int) -> Tensor:
        """Return N(0, 1) numbers."""
        return sent(torch.randn(*shape, generator=self.random), self.device)

    def uniform(self, *shape: int) -> Tensor:
        """Return uniform numbers in [0, 1)."""
        return sent(torch.rand(*shape, generator=self.random), self.device)

    def whole(self, below: int, *shape: int) -> Tensor:
        """Return whole numbers from 0 to ``below`` - 1, int64."""
        return sent(torch.randint(below, shape, generator=self.random), self.device)

    def rows(self, *shape: int) -> Tensor:
        """Return rows of the public images, drawn with replacement."""
        return self.whole(len(self.images), *shape)

    def real(self, rows: Tensor) -> Tensor:
        """Return public images as float32 [n, C, H, W] in [0, 1]."""
        return unit(self.images[rows], self.device)


class PriorTrainer(ABC):
    """How a paper trains its prior.

    Attributes:
        name: of the prior; names its file in the cache and its random streams.
        version: part of the cache key; raise it when networks or training change.
        targeted: whether it is trained against the captured model, once per round.
        rotates: whether it learns from rotated views, whose gradient has no deterministic kernel on CUDA.
        kept: which of its networks are stored; none: there is nothing to train.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    targeted: ClassVar[bool] = False
    rotates: ClassVar[bool] = False
    kept: ClassVar[tuple[str, ...]] = ("generator",)

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @abstractmethod
    def networks(self, shape: tuple[int, int, int], classes: int) -> nn.ModuleDict:
        """Return the networks by name, ``generator`` among them, for images (C, H, W); ``classes`` of the target.

        A generator may say its ``latent``, the dimension of z (100 if it does not), and the ``classes`` it makes.
        """

    @abstractmethod
    def train(self, nets: nn.ModuleDict, data: Training) -> None:
        """Train ``nets`` in place."""

    def critic(self, nets: nn.ModuleDict) -> nn.Module | None:
        """Return the critic that an attack may use, if there is one."""
        del nets
        return None


def trained_prior(
    trainer: PriorTrainer,
    target: Target | None,
    public: PublicSet,
    seed: int,
    device: torch.device,
    progress: Progress = silent,
) -> Prior:
    """Return the prior of ``public``, trained or from the cache, ready for inference.

    Args:
        trainer: the paper's networks and training, with settings.
        target: the captured model; may be None unless the trainer is ``targeted``, which trains on the target's device.

    Raises:
        ConfigError: no target where one is needed, public images of another shape than it takes, or TF32 on a CPU.
        IntegrityError: the cached file is damaged.
    """
    classes, against = 0, ""
    if trainer.targeted:
        if target is None:
            raise ConfigError(f"prior '{trainer.name}' is trained against the target; give it the captured model")
        if public.shape != target.model.input_shape:
            raise ConfigError(
                f"the public images are {public.shape} but the target takes {target.model.input_shape}; "
                "prepare the public set in that shape"
            )
        classes, against, device = target.model.classes, target.sha256, target.device
    arithmetic = _arithmetic(trainer)
    if arithmetic == "tf32" and device.type == "cpu":
        raise ConfigError("a prior's precision 'tf32' is a CUDA device's; train it in fp32 on a CPU")
    key, entry = _key_of(trainer, public, seed, against)
    if entry is not None:
        entry.into(prior_path(trainer.name, key))
    random = generator(seed, trainer.name, "training")
    checkpoint = Checkpoint(prior_path(trainer.name, key).with_suffix(".checkpoint"), random)
    with tf32(device, on=arithmetic == "tf32"), seeded(derive(seed, trainer.name, "weights"), device):
        nets = trainer.networks(public.shape, classes)
        nets = nets.to(device).to(memory_format=torch.channels_last)

        def train(progress: Progress) -> dict[str, str]:
            images = public.images.to(device)
            trainer.train(nets, Training(images, target, public, device, random, progress, checkpoint))
            return {"seconds": f"{checkpoint.seconds:.3f}", "target": against}

        about = {"seconds": "0"}
        if trainer.kept:
            stored = nn.ModuleDict({name: nets[name] for name in trainer.kept})
            about = cached(trainer.name, key, stored, train, progress)
            checkpoint.remove()
    critic = trainer.critic(nets)
    return Prior(
        trainer.name,
        for_inference(nets["generator"], device),
        None if critic is None else for_inference(critic, device),
        int(getattr(nets["generator"], "latent", LATENT)),
        public.shape,
        key,
        float(about["seconds"]),
        int(getattr(nets["generator"], "classes", 0)),
    )


def is_trained(trainer: PriorTrainer, public: PublicSet, seed: int) -> bool:
    """Return whether a prior that needs no target comes with the package, lies in the cache, or needs no training."""
    key, entry = _key_of(trainer, public, seed)
    return not trainer.kept or entry is not None or prior_path(trainer.name, key).exists()


def samples_of(trainer: PriorTrainer, public: PublicSet, seed: int) -> str:
    """Return the name of the file of samples of a prior that needs no target, trained or not; arguments as above."""
    return samples_name(_key_of(trainer, public, seed)[0])


def _key_of(trainer: PriorTrainer, public: PublicSet, seed: int, against: str = "") -> tuple[str, Shipped | None]:
    """Return the key of a prior, and the shipped one that it is, if it is one."""
    settings = trainer.settings.model_dump(mode="json", exclude={"precision"})
    made_from = {
        "settings": settings,
        "target": against,
        "public": public.key,
        "seed": seed,
        "shape": public.shape,
        "version": trainer.version,
        "arithmetic": _arithmetic(trainer),
        "start": "",  # part of the keys of priors that are in caches
    }
    key = content_sha256(made_from)
    if not settings.pop("shipped", False) or _arithmetic(trainer) != "fp32":
        return key, None
    entry = shipped_prior(trainer.name, trainer.version, settings, public.recipe, public.shape)
    return (key if entry is None else entry.key), entry


def _arithmetic(trainer: PriorTrainer) -> str:
    return str(getattr(trainer.settings, "precision", "fp32"))


def prior_path(name: str, key: str) -> Path:
    """Return where a prior with that key is cached."""
    return cache_directory() / "priors" / f"{name}-{key[:16]}.safetensors"


def cached(
    name: str,
    key: str,
    networks: nn.ModuleDict,
    train: Callable[[Progress], dict[str, str]],
    progress: Progress = silent,
) -> dict[str, str]:
    """Fill ``networks`` from the cache, or call ``train`` (which trains them in place) and store them.

    Several processes may ask for the same prior: one trains it, the others wait and report what that one does.

    Returns:
        The metadata ``train`` returned, now or when the prior was trained.

    Raises:
        IntegrityError: the cached file is damaged; the message names it.
    """
    path = prior_path(name, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path, progress):  # of several workers, one trains and the others wait for it
        if path.exists():
            weights, metadata = load_weights(path)
            into_module(networks, weights, str(path))
            return metadata
        try:
            metadata = train(_Noted(path, progress)) | {"key": key, "prior": name}
        finally:
            _note(path).unlink(missing_ok=True)
        save_weights(path, to_weights(networks), metadata)
        return metadata


def _note(path: Path) -> Path:
    """Return the file that says how far the training of the prior at ``path`` is."""
    return path.with_suffix(".progress")


@contextmanager
def _alone(path: Path, progress: Progress) -> Iterator[None]:
    """Hold the prior's lock; while another process trains it, pass on what that one says of its progress."""
    lock = FileLock(path.with_suffix(".lock"))
    while True:
        try:
            lock.acquire(timeout=_EVERY)
            break
        except Timeout:
            note = _note(path)
            with suppress(OSError, IntegrityError, KeyError, TypeError, ValueError):
                about = read_object(note, "what", "done", "total")
                progress(f"{about['what']} (another process)", int(about["done"]), int(about["total"]))
    try:
        yield
    finally:
        lock.release()


class _Noted:
    """Passes progress on and notes it beside the prior, once a second, for processes that wait."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self._note, self._progress, self._last = _note(path), progress, 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        self._progress(what, done, total)
        now = time.monotonic()
        if now - self._last > _EVERY:
            self._last = now
            write_json(self._note, {"what": what, "done": done, "total": total})
