"""Folders of pictures as other people have them, and an experiment on them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fedinverse.data import Images, Request, source_of

SHAPE = (3, 32, 32)
Load = Callable[..., Any]


def picture(seed: int, side: int = 40) -> Image.Image:
    """A picture of its own for every seed: a few large squares of colour and a little noise."""
    random = np.random.default_rng(seed)
    squares = np.kron(random.integers(0, 256, (4, 4, 3)), np.ones((side // 4, side // 4, 1)))
    return Image.fromarray((squares + random.normal(0, 8, squares.shape)).clip(0, 255).astype(np.uint8))


def album(root: Path, classes: int = 3, each: int = 10, first: int = 0, names: str = "person {}") -> Path:
    for number in range(classes):
        folder = root / names.format(number)
        folder.mkdir(parents=True)
        for view in range(each):
            picture(first + number * 1000 + view).save(folder / f"{view:02d}.png")
    return root


def read(root: Path, **changes: Any) -> Images:
    return source_of("imagefolder").load(Request("imagefolder", SHAPE, str(root), **changes))


def faces(tiny: Load, private: Path, public: Path, **changes: Any) -> Any:
    data = {"private": "imagefolder", "private_root": str(private), "public": "imagefolder", "public_root": str(public)}
    data |= {"private_limit": 0, "public_limit": 0} | changes.pop("data", {})
    population = {"clients": 3, "victim_classes": [0]} | changes.pop("population", {})
    return tiny(
        data=data,
        population=population,
        model={"name": "resnet18_32", "width": 0.1},
        audit={"evaluator": {"model": "torchvision:resnet18", "width": 1.0}},
        **changes,
    )
