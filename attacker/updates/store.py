"""Inverting the update of one round, and where the result is kept: once per all that it follows from."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attacker.settings import Updates
from attacker.target import Stopwatch
from attacker.updates.pairs import Pair
from attacker.updates.update_inversion import (
    VERSION,
    LocalTraining,
    as_tensors,
    dealt,
    label_shares,
    others_update,
    reconstruct,
)
from fedinverse.errors import StageError
from fedinverse.layout import ABOUT, RECONSTRUCTIONS
from fedinverse.models import Classifier, network_in
from fedinverse.progress import Progress, silent
from fedinverse.records import ModelFile, read_record, write_record
from fedinverse.seeds import generator
from fedinverse.shard import Shard
from fedinverse.storage import Weights, content_sha256, load_weights, save_weights, weights_sha256


@dataclass(frozen=True)
class Seat:
    """What the attacker knows beside the captures.

    Attributes:
        shard: its images; may be empty.
        training: what the others do in a round.
        share: weight of each own reply in the average.
        assumed: what of this it only assumes, in sentences.
    """

    shard: Shard
    training: LocalTraining
    share: float
    seed: int
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True)
class UpdateAbout:
    """What ``about.json`` says of the inversion of an update.

    Attributes:
        round: of the update.
        settings: of the inversion, defaults among them.
        training: what the others are taken to do in a round.
        own_replies: replies of the attackers that were taken out.
        share: weight of each of them in the average.
        update_norm: Euclidean length of the update.
        distance: 1 - cos of what the images give to the update, reached; 0: the same direction.
        notes: what was assumed, and what was left out.
        seconds: that it took.
    """

    round: int
    settings: dict[str, Any]
    training: dict[str, Any]
    own_replies: int
    share: float
    update_norm: float
    distance: float
    notes: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class InvertedUpdate:
    """A finished inversion of an update on disk: images, labels and label shares, and ``about.json``, written last."""

    path: Path

    @property
    def images(self) -> Path:
        """``images`` float32 [N, C, H, W], ``labels`` int64 [N], ``shares`` float64 [K]."""
        return self.path / RECONSTRUCTIONS

    @property
    def done(self) -> bool:
        """Whether all of it was written."""
        return (self.path / ABOUT).exists()

    @property
    def about(self) -> UpdateAbout:
        """What ``about.json`` says.

        Raises:
            IntegrityError: a key is missing or of another type; names file and key.
        """
        return read_record(UpdateAbout, self.path / ABOUT)

    @property
    def labels(self) -> Tensor:
        """The labels that the images were reconstructed for."""
        return torch.from_numpy(load_weights(self.images)[0]["labels"])


def place(store: Path, pair: Pair, seat: Seat, settings: Updates, labels: Tensor | None) -> InvertedUpdate:
    """Return where the inversion of ``pair`` lies, done or not."""
    hashes = [ModelFile.read(path).sha256 for path in (pair.before, pair.after, *pair.replies)]
    shard_hash = weights_sha256({"images": seat.shard.images.contiguous().numpy(), "labels": seat.shard.labels.numpy()})
    chosen = settings.model_dump(mode="json", exclude={"rounds", "device"})
    dealt_before = None if labels is None else labels.tolist()
    key = content_sha256(
        [VERSION, hashes, shard_hash, chosen, asdict(seat.training), seat.share, seat.seed, dealt_before]
    )
    return InvertedUpdate(store / f"round-{pair.round:04d}-{key[:16]}")


def invert_update(
    pair: Pair,
    seat: Seat,
    settings: Updates,
    where: InvertedUpdate,
    labels: Tensor | None = None,
    progress: Progress = silent,
) -> None:
    """Find labels and images behind the update of ``pair``; store them in ``where``.

    ``labels``: reconstruct for these, not for those found: a control is given those of what it is held against.

    Raises:
        StageError: both models are equal; or see ``others_update`` and ``label_shares``.
        IntegrityError: a file is damaged, or its arrays do not fit the network; names it.
    """
    watch = Stopwatch()
    network, before = _opened(pair.before)
    later, after = _opened(pair.after)
    names = [name for name, _ in network.named_parameters()]
    replies = []
    for path in pair.replies:
        _, weights = _opened(path)
        replies.append({name: weights[name] for name in names})
    update = others_update(
        {name: before[name] for name in names}, {name: after[name] for name in names}, replies, seat.share
    )
    length = float(torch.stack([value.square().sum() for value in update.values()]).sum().sqrt())
    if length == 0:
        raise StageError(f"{pair.before} and {pair.after} are the same model: nobody's update lies between them")
    shares = label_shares(network, later, update, seat.training, seat.shard)
    chosen = dealt(shares, settings.images) if labels is None else labels
    network.to(settings.device)
    images, distance = reconstruct(
        network, update, chosen, settings, seat.training, generator(seat.seed, "update inversion"), progress
    )
    arrays = {"images": images.numpy(), "labels": chosen.numpy(), "shares": shares.numpy()}
    save_weights(where.images, arrays, {"round": pair.round})
    unkept = (
        f"round {pair.round}: {pair.unkept} own replies were not kept, so that the attackers' own updates are part of "
    )
    unkept += "what is inverted"
    about = UpdateAbout(
        pair.round,
        settings.model_dump(mode="json"),
        asdict(seat.training),
        len(pair.replies),
        seat.share,
        length,
        distance,
        (*seat.assumed, *([unkept] if pair.unkept else [])),
        round(watch.seconds, 3),
    )
    write_record(where.path / ABOUT, about)


def _opened(path: Path) -> tuple[Classifier, dict[str, Tensor]]:
    """Return the network that ``path`` holds, and its weights in float64."""
    network, weights = network_in(path)
    floating: Weights = {name: value for name, value in weights.items() if np.issubdtype(value.dtype, np.floating)}
    return network, as_tensors(floating)
