"""Two evaluators that may answer "none of these", and count an image as a class only where they agree.

E1 has to choose one of K classes, so a printed O is a 0 and noise is whatever it resembles least badly. The evaluators
here have a K+1st answer. It is trained on images that show no class of the private set, but look as if an attacker had
made them: the public images, and unoptimised samples of the attacks' priors, drawn with another seed than those that
are judged (a prior that was trained against a captured model is sampled as the model without the victim made it). The
two differ in architecture and seed: an image that only one of them recognises may be a quirk of that one.

No image of a victim's class, real or reconstructed, is ever among the examples of "none of these".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from auditor.evaluators.evaluator import Recipe, trained
from auditor.evaluators.material import Material
from auditor.settings import Evaluator
from fedinverse.data.source import unit
from fedinverse.errors import IntegrityError
from fedinverse.models import Classifier, build
from fedinverse.models.classifier import Features
from fedinverse.run import Run
from fedinverse.seeds import derive, generator, seeded
from fedinverse.shard import Shard
from fedinverse.storage import content_sha256, load_weights, weights_sha256

VERSION = 4  # part of the cache key; raise it when the networks or the training change
DRAWINGS = (16, 32, 64)  # widths of the blocks, for images of up to 32 pixels
PHOTOGRAPHS = (32, 64, 128, 256)  # of larger ones
FAILED = -1  # the answer to a reconstruction that failed: neither a class nor "none of these"


@dataclass(frozen=True)
class OpenEvaluators:
    """Both evaluators, trained.

    Attributes:
        models: for images [B, C, H, W] in [0, 1]; their last logit, number K, is "none of these".
        device: where they compute; what they return is on the CPU.
    """

    models: tuple[Classifier, Classifier]
    device: str | torch.device = "cpu"

    @property
    def none(self) -> int:
        """The answer "none of these": K."""
        return self.models[0].classes - 1

    @torch.inference_mode()
    def read(self, images: Tensor) -> Tensor:
        """Return the answers int64 [N, 2] of both, 0 to K, for images [N, C, H, W] in [0, 1]."""
        parts = [part.to(self.device) for part in images.split(256)]
        return torch.stack([torch.cat([model(part).argmax(1) for part in parts]).cpu() for model in self.models], 1)

    def ceiling(self, reserve: Shard) -> float:
        """Return the share of real reserve images that both read as their class, in [0, 1]."""
        right = (self.read(unit(reserve.images)) == reserve.labels[:, None]).all(1)
        return float(right.float().mean())


def none_images(run: Run, samples: Sequence[Path]) -> Tensor:
    """Return images that show no private class, uint8 [M, C, H, W]: the public ones, and those in ``samples``.

    Public images of a class that the private set has too (``data.allow_overlap``) are left out.

    Args:
        run: whose public set it is.
        samples: files with an array ``images``, uint8, of unoptimised samples of an attack's prior.

    Raises:
        IntegrityError: a file is damaged or holds something else; names it.
    """
    public, private = run.pools["public"], set(run.class_names)
    names = np.array([name in private for name in public.class_names], dtype=np.bool_)
    parts = [public.tensor(np.flatnonzero(~names[np.asarray(public.labels)]))]
    for path in samples:
        images = load_weights(path)[0].get("images")
        if images is None or images.dtype != np.uint8 or images.shape[1:] != parts[0].shape[1:]:
            raise IntegrityError(f"{path}: holds no samples of a prior (an array 'images', uint8 [N, C, H, W])")
        parts.append(torch.from_numpy(images.copy()))
    return torch.cat(parts)


def train_open_evaluators(
    material: Material, settings: Evaluator, none: Tensor, store: Path, device: str | torch.device = "cpu"
) -> OpenEvaluators:
    """Return both, trained on the vault and on ``none``, or read from ``store`` or from the cache.

    They depend on their settings, the vault and ``none`` alone, not on the run's seed: every run, sweep and repeated
    audit with the same images shares them.

    Args:
        material: of the run whose reconstructions they will judge.
        settings: of their training.
        none: what "none of these" looks like, uint8 [M, C, H, W]; see ``none_images``.
        store: where the run keeps the evaluators it was judged by.
        device: where they compute.

    Raises:
        IntegrityError: a stored one is damaged; the message names the file.
    """
    # The second one first: another process may just train the first (``auditor.evaluators.ahead``).
    second, first = (train_open_evaluator(material, settings, number, none, store, device) for number in (1, 0))
    return OpenEvaluators((first, second), device)


def train_open_evaluator(
    material: Material,
    settings: Evaluator,
    number: int,
    none: Tensor,
    store: Path,
    device: str | torch.device = "cpu",
) -> Classifier:
    """Return one of the two, ``number`` 0 or 1, trained or read; see ``train_open_evaluators``."""
    classes = material.classes
    epochs = WithNone(material.vault, none, settings.none_share, classes)
    key = content_sha256([number, VERSION, settings.model_dump(), classes, material.listed, epochs.none_sha256])
    seed = int(key[:15], 16)
    if number == 1 and not settings.second:
        with seeded(derive(seed, "weights")):
            network: Classifier = PlainClassifier(material.shape, classes + 1).to(memory_format=torch.channels_last)
    else:
        name = settings.second if number else settings.model
        network = build(name, classes + 1, settings.width, derive(seed, "weights"))
    recipe = Recipe(
        f"open-{number}",
        key,
        network,
        epochs,
        settings,
        derive(seed, "layers"),
        generator(seed, "training"),
    )
    return trained(recipe, store, device)


@dataclass(frozen=True)
class WithNone:
    """What is trained on: in every epoch the whole vault and, freshly drawn, ``share`` times as many of ``none``."""

    vault: Shard
    none: Tensor
    share: float
    classes: int

    @property
    def count(self) -> int:
        """Images of ``none`` in an epoch."""
        return min(len(self.none), round(self.share * len(self.vault)))

    @property
    def none_sha256(self) -> str:
        """Hash of ``none``."""
        return weights_sha256({"none": self.none.contiguous().numpy()})

    def __len__(self) -> int:
        return len(self.vault) + self.count

    def draw(self, random: torch.Generator) -> Shard:
        """Return one epoch's images, shuffled."""
        rows = torch.randperm(len(self.none), generator=random)[: self.count]
        images = torch.cat([self.vault.images, self.none[rows]])
        labels = torch.cat([self.vault.labels, torch.full((len(rows),), self.classes)])
        order = torch.randperm(len(labels), generator=random)
        return Shard(images[order], labels[order])


class PlainClassifier(Classifier):
    """A small convolutional network of the auditor's own, for images of any size; no target has its architecture.

    conv3 /2; further conv3, each with a pool; means of the image's quarters; linear. All with BatchNorm and ReLU.
    Photographs need more of it than drawings: of synthfaces (64 pixels, twelve pictures of each of 40 people to learn
    from, "none of these" among the answers) three blocks read 49 % of unseen pictures, four blocks of twice the widths
    90 %.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.input_shape, self.classes = shape, classes
        first, *further = PHOTOGRAPHS if max(shape[1:]) > 32 else DRAWINGS
        blocks = [nn.Sequential(nn.Conv2d(shape[0], first, 3, 2, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU())]
        width = first
        for wider in further:
            convolution = nn.Conv2d(width, wider, 3, 1, 1, bias=False)
            blocks.append(nn.Sequential(convolution, nn.BatchNorm2d(wider), nn.ReLU(), nn.MaxPool2d(2)))
            width = wider
        self.blocks = nn.ModuleList(blocks)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(4 * width, classes)

    def features(self, images: Tensor) -> Features:
        """Return the output of every block as taps."""
        taps, hidden = [], images
        for block in self.blocks:
            hidden = block(hidden)
            taps.append(hidden)
        quarters = self.pool(hidden).flatten(1)
        return Features(tuple(taps), quarters, self.head(quarters))
