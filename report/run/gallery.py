"""The pictures as the page shows them: every attacked class in a cell, ranked, its images as data URIs."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from auditor.nearest import KINDS, BestReconstruction

LOSSLESS_BYTES = 2_000_000  # pictures of a page beyond this are stored with loss


class Pictured(Protocol):
    """What has pictures: kind -> uint8 [C, H, W]."""

    @property
    def images(self) -> dict[str, Tensor]:
        """Its pictures."""
        ...


def encoded(best: Sequence[Pictured]) -> tuple[list[dict[str, str]], bool]:
    """Return all pictures as data URIs, row by row, and whether they are lossless.

    PNG while all of them stay below two megabytes; a page of a thousand faces takes WebP.
    """
    lossless = _fits(best)
    kind = "png" if lossless else "webp"
    return [{name: picture_uri(image, kind) for name, image in each.images.items()} for each in best], lossless


def _fits(best: Sequence[Pictured]) -> bool:
    size = 0
    for image in (image for each in best for image in each.images.values()):
        size += len(_file(image, "png"))
        if size > LOSSLESS_BYTES:
            return False
    return True


def data_uri(file: bytes, kind: str = "png") -> str:
    """Return a picture's file as a URI that holds it."""
    return f"data:image/{kind};base64," + base64.b64encode(file).decode()


def picture_uri(image: Tensor, kind: str = "png") -> str:
    """Return an image uint8 [C, H, W] as a URI that holds it."""
    return data_uri(_file(image, kind), kind)


def _file(image: Tensor, kind: str) -> bytes:
    array = image.permute(1, 2, 0).numpy()
    picture = Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({"optimize": True} if kind == "png" else {"quality": 35, "method": 2}))
    return buffer.getvalue()


@dataclass(frozen=True)
class Cell:
    """What the page shows of one class.

    Attributes:
        success: share of its reconstructions that E1 reads as the class.
        pictures: (caption, alternative text, data URI, distance as text), the reconstruction first.
        remark: what its distances say; empty: nothing.
    """

    name: str
    victim: bool
    success: float
    pictures: list[tuple[str, str, str, str]]
    remark: str


@dataclass(frozen=True)
class Gallery:
    """All classes of one attack at one round, the victim's first, each group ranked by success."""

    attack: str
    round: int
    victims: list[Cell]
    others: list[Cell]
    lossless: bool


def gallery(
    attack: str,
    server_round: int,
    best: Sequence[BestReconstruction],
    pictures: tuple[Sequence[dict[str, str]], bool],
    success: Mapping[int, float],
    names: Sequence[str],
    victims: Sequence[int],
) -> Gallery:
    """Return the gallery of ``found``, whose ``pictures`` are as ``encoded`` returns them.

    A class of ``success`` (class -> share) that was not found had no sound reconstruction and says so.
    """
    pictured = {each.label: (each, uris) for each, uris in zip(best, pictures[0], strict=True)}

    def rank(label: int) -> tuple[float, float]:
        return -success[label], pictured[label][0].distance.get("train", torch.inf) if label in pictured else torch.inf

    cells = [
        (label, _cell(names[label], label, label in victims, success, pictured)) for label in sorted(success, key=rank)
    ]
    return Gallery(
        attack,
        server_round,
        [cell for _, cell in cells if cell.victim],
        [cell for _, cell in cells if not cell.victim],
        pictures[1],
    )


def _cell(
    name: str,
    label: int,
    victim: bool,
    success: Mapping[int, float],
    pictured: Mapping[int, tuple[BestReconstruction, dict[str, str]]],
) -> Cell:
    if label not in pictured:
        return Cell(name, victim, success[label], [], "every reconstruction failed")
    nearest, uris = pictured[label]
    pictures = [
        (
            caption,
            alternative.format(name),
            uris[kind],
            f"{nearest.distance[kind]:.2f}" if kind in nearest.distance else "",
        )
        for kind, (caption, alternative) in KINDS.items()
        if kind in uris
    ]
    remark = "" if nearest.guarded else "nearer to an image of the attacker's"
    return Cell(name, victim, success[label], pictures, remark)
