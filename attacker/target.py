"""What an attack starts from: the captured model and the attacker's public images."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedinverse.data import Pool
from fedinverse.data.source import unit
from fedinverse.models import Classifier, built_for, for_inference
from fedinverse.records import ModelFile
from fedinverse.storage import into_module, load_weights


@dataclass(frozen=True)
class Target:
    """A captured global model, ready to be differentiated: eval, frozen, BatchNorm folded.

    Attributes:
        model: returns logits and features for images [B, C, H, W] in [0, 1].
        sha256: hash of the captured weights.
        round: the federation round after which the server had this model.
        earlier: models captured before it that are inverted together with it, newest first.
        captured: the same network, frozen, before BatchNorm was folded; None: it is ``model`` itself.
    """

    model: Classifier
    sha256: str
    round: int
    device: torch.device
    earlier: "tuple[Target, ...]" = ()
    captured: Classifier | None = None

    @property
    def plain(self) -> Classifier:
        """The network as it was captured: BatchNorm layers stand where they stood."""
        return self.model if self.captured is None else self.captured


def open_target(path: Path, model: str, classes: int, width: float, device: str | torch.device) -> Target:
    """Read captured weights into the network they belong to.

    Raises:
        IntegrityError: damaged file, NaN, or arrays that do not fit the network, which is not built then; names the
            file.
    """
    weights, metadata = load_weights(path)
    network = built_for(weights, model, classes, width, str(path))
    into_module(network, weights, str(path))
    said = ModelFile.of(metadata)
    return Target(
        for_inference(network, device),
        said.sha256,
        said.round,
        torch.device(device),
        captured=network.eval().requires_grad_(False).to(device),
    )


@dataclass(frozen=True)
class PublicSet:
    """The attacker's public images.

    Attributes:
        images: uint8 [N, C, H, W], channels-last.
        recipe: what ``Pool.recipe`` says of them.
    """

    images: Tensor
    key: str
    class_names: tuple[str, ...] = ()
    recipe: str = ""

    @classmethod
    def of(cls, pool: Pool) -> "PublicSet":
        """Read the images of ``pool``."""
        return cls(pool.tensor(), pool.path.name, pool.class_names, pool.recipe)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        _, channels, height, width = self.images.shape
        return channels, height, width


class Stopwatch:
    """Measures wall seconds between its making and ``seconds``."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._start


def public_view(model: Classifier, images: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return (features [N, F], logits [N, K]) of ``images``, uint8 [N, C, H, W]; ``model`` frozen and in eval mode."""
    with torch.no_grad():
        seen = [model.features(unit(part, device)) for part in torch.split(images, 256)]
        return torch.cat([look.penultimate for look in seen]), torch.cat([look.logits for look in seen])
