"""E1, the judge of reconstructions: a task classifier of another architecture than the target, trained on vault images.

Published evaluators share the target's training data and its mistakes. E1 sees only vault images, which no client ever
held, and is refused if it is the target's architecture or if a client's image is among its training images.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedinverse.config import Section
from fedinverse.data.source import unit
from fedinverse.errors import ConfigError
from fedinverse.models import Classifier, build, for_inference, spec_of
from fedinverse.private import part_of
from fedinverse.run import Run
from fedinverse.seeds import derive, generator
from fedinverse.shard import Shard
from fedinverse.storage import content_sha256, into_module, load_weights, save_weights, to_weights


class Evaluator(Section):
    """Training of E1."""

    model: str = Field("scnn", description="network of the evaluator; never the target's")
    width: float = Field(1.0, gt=0, le=4, description="multiplies its widths")
    epochs: int = Field(30, ge=1, description="epochs on the vault images")
    batch_size: int = Field(64, ge=2, description="images per step")
    lr: float = Field(2e-3, gt=0, description="Adam's learning rate, annealed to zero by a cosine")


@dataclass(frozen=True)
class Judge:
    """A trained E1.

    Attributes:
        model: frozen, for images [B, C, H, W] in [0, 1].
        ceiling: its accuracy on real reserve images (CEIL), in [0, 1]: no attack can be scored above what it can read.
    """

    model: Classifier
    ceiling: float

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """Return logits [N, K] of images [N, C, H, W] in [0, 1]."""
        return torch.cat([self.model(part) for part in images.split(256)])

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """Return penultimate features [N, F] of images [N, C, H, W] in [0, 1]."""
        return torch.cat([self.model.features(part).penultimate for part in images.split(256)])


def check_independent(run: Run, settings: Evaluator) -> None:
    """Refuse an evaluator that cannot be independent of the target.

    Raises:
        ConfigError: E1 has the target's architecture, another image shape, or its training images meet a client's.
    """
    if settings.model == run.model.name:
        raise ConfigError(
            f"audit.evaluator.model is '{settings.model}', the target's own architecture: it would share its "
            "mistakes; choose another one"
        )
    wanted, given = spec_of(run.model.name).input_shape, spec_of(settings.model).input_shape
    if wanted != given:
        raise ConfigError(f"audit.evaluator.model '{settings.model}' takes images {given}, the target {wanted}")
    manifest = run.split
    vault = set(manifest.loc[manifest["part"] == "vault", "sha256"])
    if vault & set(manifest.loc[manifest["client"] >= 0, "sha256"]):
        raise ConfigError("an image of the evaluator's vault is held by a client; make the split anew")


def train_judge(run: Run, settings: Evaluator, store: Path, device: str | torch.device = "cpu") -> Judge:
    """Return E1, trained on the vault or read from ``store``.

    Raises:
        ConfigError: see ``check_independent``.
    """
    check_independent(run, settings)
    vault, reserve = part_of(run, "vault"), part_of(run, "reserve")
    manifest = run.split
    key = content_sha256([settings.model_dump(), run.seed, sorted(manifest.loc[manifest["part"] == "vault", "sha256"])])
    classes = len(run.class_names)
    network = build(settings.model, classes, settings.width, derive(run.seed, "evaluator"))
    path = store / f"evaluator-{key[:16]}.safetensors"
    if path.exists():
        into_module(network, load_weights(path)[0], str(path))
    else:
        _fit(network.to(device), vault, settings, generator(run.seed, "evaluator", "training"), device)
        save_weights(path, to_weights(network), {"model": settings.model, "key": key})
    ready = for_inference(network, device)
    judge = Judge(ready, 0.0)
    right = judge.logits(unit(reserve.images, device)).argmax(1).cpu() == reserve.labels
    return Judge(ready, float(right.float().mean()))


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
