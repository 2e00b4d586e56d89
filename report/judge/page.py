"""Fills the page on which a person judges: images and their names, and nothing that says what they are."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from report.run.gallery import data_uri
from report.template import templates_in


def render(sheet: str, ids: Sequence[str], images: Tensor, version: int) -> str:
    """Return the page as one HTML text with style, script and every picture inside it.

    Args:
        sheet: what the items and their order are called.
        ids: name of every item.
        images: uint8 [N, 1 + M, C, H, W]: what is asked about, then the images beside it.
        version: of the file of answers.
    """
    items = [
        {"id": name, "image": _uri(each[0]), "beside": [_uri(one) for one in each[1:]]}
        for name, each in zip(ids, images, strict=True)
    ]
    here = Path(__file__).parent
    data = json.dumps({"version": version, "sheet": sheet, "items": items}).replace("<", "\\u003c")
    return (
        templates_in(here)
        .get_template("judge.html")
        .render(
            count=len(items),
            beside=images.shape[1] - 1,
            style=(here / "judge.css").read_text(encoding="utf-8"),
            script=(here / "judge.js").read_text(encoding="utf-8"),
            data=data,
        )
    )


def _uri(image: Tensor) -> str:
    """Return an image uint8 [C, H, W] as a PNG in a URI; every image of a page is written alike."""
    array = image.permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array).save(buffer, "png")
    return data_uri(buffer.getvalue())
