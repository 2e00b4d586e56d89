"""Fills the page on which a person judges: images and their names, and nothing that says what they are."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from report.run.gallery import picture_uri
from report.template import filled, inline_json


def render(sheet: str, ids: Sequence[str], images: Tensor, version: int) -> str:
    """Return the page as one HTML text with style, script and every picture inside it.

    Args:
        sheet: what the items and their order are called.
        images: uint8 [N, 1 + M, C, H, W]: what is asked about, then the images beside it.
    """
    items = [
        {"id": name, "image": picture_uri(each[0]), "beside": [picture_uri(one) for one in each[1:]]}
        for name, each in zip(ids, images, strict=True)
    ]
    return filled(
        Path(__file__).with_name("judge.html"),
        count=len(items),
        beside=images.shape[1] - 1,
        data=inline_json({"version": version, "sheet": sheet, "items": items}),
    )
