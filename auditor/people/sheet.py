"""What people are shown: items in random order, each an image beside four real images of one class.

An item is of one of these kinds, which only the key beside the page says:

``reconstruction``  what the primary attack made of the victim's model, beside images of the class it is meant to show
``true-positive``   a real image beside others of its class: who says "no" or "cannot tell" has missed it
``wrong-class``     a real image of another class: who says "yes" would have seen anything
``control-world``   what the attack made of the model without the victim's images
``prior-only``      an unoptimised sample of the attack's prior

Real images come from the reserve, on which no evaluator and no client trained; a class that has too few there is filled
up from the vault, then from the training images.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from auditor.evidence import Exhibit
from fedinverse.errors import StageError
from fedinverse.run import Run
from fedinverse.seeds import derive, numpy_generator
from fedinverse.storage import read_json, typed, weights_sha256

Kind = Literal["reconstruction", "true-positive", "wrong-class", "control-world", "prior-only"]
KINDS: tuple[Kind, ...] = ("reconstruction", "true-positive", "wrong-class", "control-world", "prior-only")
MADE: dict[str, Kind] = {"A": "reconstruction", "B2": "control-world", "B0": "prior-only"}
MOST = 200  # images of a class that a sheet draws from
BESIDE = 4  # real images of the class beside the image that is asked about
VERSION = 1  # of the key and the answers


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        id: as the page and the answers name it; says nothing.
        kind: what is asked about.
        label: the class of the four images beside it.
        evaluator: whether E1, which must name a class, reads the image as ``label``.
        open: whether both evaluators that may say "none of these" do.
    """

    id: str
    kind: Kind
    label: int
    evaluator: bool
    open: bool


@dataclass(frozen=True)
class Key:
    """What the page does not say; written beside it.

    Attributes:
        version: of this format.
        sheet: names these items in this order; answers name it too.
        run: name of the run.
        attack: label of the attack.
        round: of the models that were inverted.
        class_names: by label.
        items: in the order of the page.
        notes: what the sheet lacks, and why.
        inversion: directory of the reconstructions below the run's inversions; another attack has another.
    """

    version: int
    sheet: str
    run: str
    attack: str
    round: int
    class_names: tuple[str, ...]
    items: tuple[Item, ...]
    notes: tuple[str, ...]
    inversion: str = ""

    def plain(self) -> dict[str, object]:
        """Return it as JSON holds it."""
        return asdict(self)


def read_key(path: Path) -> Key:
    """Read a key.

    Raises:
        StageError: there is none.
        IntegrityError: it was altered; names the key.
    """
    if not path.exists():
        raise StageError(f"{path.parent} holds no {path.name}; make the page first: fedinverse judge RUN")
    return typed(Key, read_json(path), path)


@dataclass(frozen=True)
class Drawn:
    """Items before any evaluator has seen them.

    Attributes:
        sheet: what the items and their order are called.
        kinds: of every item.
        labels: of every item.
        images: uint8 [N, 5, C, H, W]: what is asked about, then the four beside it.
        notes: what is lacking, and why.
    """

    sheet: str
    kinds: tuple[Kind, ...]
    labels: tuple[int, ...]
    images: Tensor
    notes: tuple[str, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """One name per item, which tells nobody its kind."""
        return tuple(f"{derive(int(self.sheet, 16), 'item', number):016x}" for number in range(len(self.kinds)))


def draw(run: Run, exhibits: Sequence[Exhibit], per_kind: int, seed: int) -> Drawn:
    """Draw a sheet.

    Args:
        run: whose victim's classes are asked about.
        exhibits: arms A, B2 and B0 of the primary attack and round, as far as the run has them.
        per_kind: most items of a kind.
        seed: of the draw and the order; one sheet for each.

    Raises:
        StageError: no class has the five different real images that a question takes, or nothing was reconstructed.
    """
    random = numpy_generator(derive(run.seed, "people", seed), per_kind)
    attacked: list[int] = next((each.labels.unique().tolist() for each in exhibits if each.arm == "A"), [])
    real = {label: _real(run, label, random) for label in run.victim_classes or attacked}
    classes = [label for label, pool in real.items() if len(pool) > BESIDE]
    notes = [
        f"class {run.class_names[label]} is left out: it has {len(pool)} different images, {BESIDE + 1} are needed"
        for label, pool in real.items()
        if label not in classes
    ]
    if not classes:
        raise StageError(f"{run.path}: there is nothing to ask: {'; '.join(notes) or 'no class was attacked'}")
    items = list(_real_items({label: real[label] for label in classes}, per_kind, random))
    if len(classes) == 1:
        notes.append("no wrong-class items: there is one class")
    for arm, kind in MADE.items():
        exhibit = next((each for each in exhibits if each.arm == arm), None)
        rows = _rows(exhibit, classes, per_kind, random) if exhibit else []
        if exhibit is None or not rows:
            notes.append(f"no {kind} items: the run has no image of that kind that did not fail")
            continue
        for row in rows:
            label = int(exhibit.labels[row])
            pixels = exhibit.images[row].clamp(0, 1).mul(255).round().to(torch.uint8)
            items.append((kind, label, pixels, _five(real[label], random)[1]))
    if not any(kind == "reconstruction" for kind, *_ in items):
        raise StageError(f"{run.path} has no reconstruction of these classes that did not fail")
    items = [items[number] for number in random.permutation(len(items))]
    images = torch.stack([torch.cat([asked[None], beside]) for _, _, asked, beside in items])
    kinds, labels = tuple(kind for kind, *_ in items), tuple(label for _, label, *_ in items)
    sheet = f"{derive(run.seed, 'sheet', seed, weights_sha256({'images': images.numpy()}), *kinds, *labels):016x}"
    return Drawn(sheet, kinds, labels, images, tuple(notes))


_Question = tuple[Kind, int, Tensor, Tensor]  # kind, class beside, what is asked about, the four beside it


def _real_items(real: dict[int, Tensor], per_kind: int, random: np.random.Generator) -> Iterator[_Question]:
    """Yield real images beside others of their class, and beside those of another class."""
    classes = list(real)
    for number in range(per_kind):
        place = number % len(classes)
        label = classes[place]
        asked, beside = _five(real[label], random)
        yield "true-positive", label, asked, beside
        if len(classes) > 1:
            other = classes[(place + 1 + int(random.integers(len(classes) - 1))) % len(classes)]
            yield "wrong-class", label, _five(real[other], random)[0], _five(real[label], random)[1]


def _five(pool: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return an image of ``pool`` [M, C, H, W] and ``BESIDE`` others."""
    rows = random.permutation(len(pool))[: BESIDE + 1]
    return pool[int(rows[0])], pool[torch.from_numpy(rows[1:])]


def _real(run: Run, label: int, random: np.random.Generator) -> Tensor:
    """Return different real images of a class, uint8 [M, C, H, W]: of the reserve alone where it has enough."""
    manifest = run.split[run.split["label"] == label].drop_duplicates("sha256")
    rows = np.empty(0, np.int64)
    for part in ("reserve", "vault", "train"):
        rows = np.concatenate([rows, manifest.loc[manifest["part"] == part, "row"].to_numpy(np.int64)])
        if len(rows) > BESIDE:
            break
    return run.pools["private"].tensor(random.permutation(rows)[:MOST])


def _rows(exhibit: Exhibit, classes: Sequence[int], count: int, random: np.random.Generator) -> list[int]:
    """Return rows of images that did not fail, spread over ``classes`` as evenly as ``count`` allows."""
    good = ~exhibit.failed & torch.isfinite(exhibit.images).flatten(1).all(1)
    by_class = [random.permutation((good & (exhibit.labels == label)).nonzero().flatten().numpy()) for label in classes]
    turns = [rows[turn] for turn in range(max(map(len, by_class))) for rows in by_class if turn < len(rows)]
    return [int(row) for row in turns[:count]]
