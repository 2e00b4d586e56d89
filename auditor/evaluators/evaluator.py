"""E1, the judge of reconstructions: a task classifier of another architecture than the target, trained on vault images.

Published evaluators share the target's training data and its mistakes. E1 sees only vault images, which no client ever
held, and is refused if it is the target's architecture or if a client's image is among its training images
(``auditor.evaluators.independence``).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor

from auditor.evaluators.independence import check_independent
from auditor.settings import Evaluator
from fedinverse.data.source import cache_directory, unit
from fedinverse.models import Classifier, build, for_inference
from fedinverse.private import part_of
from fedinverse.run import Run
from fedinverse.seeds import derive, generator, seeded
from fedinverse.shard import Shard
from fedinverse.storage import content_sha256, into_module, load_weights, save_weights, to_weights

VERSION = 5  # part of the cache key; raise it when the training changes
# Always: another number adds in another order, and the scores would depend on the machine. Two were 2.5 times faster on
# an idle machine, and many times slower on a busy one, where they wait for each other.
THREADS = 1


@dataclass(frozen=True)
class Judge:
    """A trained E1.

    Attributes:
        model: frozen, for images [B, C, H, W] in [0, 1].
        ceiling: its accuracy on real reserve images (CEIL), in [0, 1]: no attack can be scored above what it can read.
        device: where it computes; what it returns is on the CPU.
    """

    model: Classifier
    ceiling: float
    device: str | torch.device = "cpu"

    @torch.inference_mode()
    def read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [N, K] and penultimate features [N, F] of images [N, C, H, W] in [0, 1]."""
        seen = [self.model.features(part.to(self.device)) for part in images.split(256)]
        return torch.cat([part.logits for part in seen]).cpu(), torch.cat([part.penultimate for part in seen]).cpu()

    def logits(self, images: Tensor) -> Tensor:
        """Return logits [N, K] of images [N, C, H, W] in [0, 1]."""
        return self.read(images)[0]

    def features(self, images: Tensor) -> Tensor:
        """Return penultimate features [N, F] of images [N, C, H, W] in [0, 1]."""
        return self.read(images)[1]


def train_judge(run: Run, settings: Evaluator, store: Path, device: str | torch.device = "cpu") -> Judge:
    """Return E1, trained on the vault, or read from ``store`` or from the cache, where a sweep's runs find it.

    It depends on its settings, the seed and the vault alone. That these are independent of this run's target is checked
    every time, before anything is read.

    Args:
        run: whose reconstructions it will judge.
        settings: of its training.
        store: where the run keeps the judge that it was judged by.
        device: where it computes.

    Raises:
        ConfigError: it would not be independent; see ``auditor.evaluators.independence``.
        IntegrityError: a stored E1 is damaged; the message names the file.
    """
    check_independent(run, settings)
    network = build(settings.model, len(run.class_names), settings.width, derive(run.seed, "evaluator"))
    key = _key(run, settings)
    path = store / f"evaluator-{key[:16]}.safetensors"
    if path.exists():
        into_module(network, load_weights(path)[0], str(path))
    else:
        _train_once(network, run, settings, key, device)
        save_weights(path, to_weights(network), {"model": settings.model, "key": key})
    ready = for_inference(network, device)
    reserve = part_of(run, "reserve")
    right = Judge(ready, 0.0, device).logits(unit(reserve.images)).argmax(1) == reserve.labels
    return Judge(ready, float(right.float().mean()), device)


def _key(run: Run, settings: Evaluator) -> str:
    vault = run.split[run.split["part"] == "vault"]
    images = vault[["sha256", "label"]].to_numpy().tolist()  # in training order
    return content_sha256([VERSION, settings.model_dump(), run.seed, len(run.class_names), images])


def _train_once(network: Classifier, run: Run, settings: Evaluator, key: str, device: str | torch.device) -> None:
    """Fill ``network`` from the cache, or train it and store it there."""
    path = cache_directory() / "evaluators" / f"{settings.model.replace(':', '-')}-{key[:16]}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # of a sweep's runs, one trains and the others wait for it
        if path.exists():
            into_module(network, load_weights(path)[0], str(path))
            return
        with _threads(THREADS):
            random = generator(run.seed, "evaluator", "training")
            with seeded(derive(run.seed, "evaluator", "layers"), device):
                _fit(network.to(device), part_of(run, "vault"), settings, random, device)
        save_weights(path, to_weights(network), {"model": settings.model, "key": key})


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fit(
    network: Classifier,
    vault: Shard,
    settings: Evaluator,
    random: torch.Generator,
    device: str | torch.device,
) -> None:
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), settings.lr)
    per_epoch = max(1, len(vault) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs * per_epoch)
    for _ in range(settings.epochs):
        order = torch.randperm(len(vault), generator=random)
        for rows in order[: per_epoch * settings.batch_size].split(settings.batch_size):
            images = jitter(unit(vault.images[rows], device), random)
            loss = F.cross_entropy(network(images), vault.labels[rows].to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()


def jitter(images: Tensor, random: torch.Generator) -> Tensor:
    """Return ``images`` [B, C, H, W] each rotated, sheared, scaled and shifted a little."""
    count, device = len(images), images.device

    def around(centre: float, spread: float) -> Tensor:
        return centre + spread * (2 * torch.rand(count, generator=random) - 1)

    angle, shear, scale = around(0, 0.2), around(0, 0.2), around(1, 0.12)
    rows = [scale * angle.cos(), scale * (shear - angle.sin()), around(0, 0.12)]
    rows += [scale * angle.sin(), scale * angle.cos(), around(0, 0.12)]
    matrix = torch.stack(rows, 1).view(count, 2, 3).to(device)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
