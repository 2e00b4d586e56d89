"""What a data hook returns, in whatever form its author keeps it: as images and labels, and a part of it."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fedinverse.errors import DataError
from fedinverse.theirs import TheirError

_IMAGE_KEYS = ("image", "img", "images", "pixel_values", "x")
_LABEL_KEYS = ("label", "labels", "target", "fine_label", "y", "class")
_LOOKED_AT = 20  # samples of a data set whose attributes were cut down
_SLACK = 0.02  # of the range [0, 1] after a normalisation was undone: rounding

Prepare = Callable[[Tensor], Tensor]
"""From images [B, C, H, W] as the hook gives them to pixels in [0, 1], for hooks that normalise."""


def training_part(given: Any) -> Any:
    """Return the part of what a hook returned that a client trains on: the first of a pair, ``train`` of a table."""
    if isinstance(given, Mapping):
        return given.get("train", given)
    return given[0] if _is_pair(given) else given


def test_part(given: Any) -> Any | None:
    """Return the second part of what a hook returned; None: it returns one part only."""
    if isinstance(given, Mapping):
        return given.get("test")
    return given[1] if _is_pair(given) else None


def _is_pair(given: Any) -> bool:
    """Return whether ``given`` is (training, test, ...) rather than (images, labels) or a list of samples."""
    if not isinstance(given, tuple) or len(given) < 2:
        return False
    return not _is_arrays(given)


def _is_arrays(given: Any) -> bool:
    """Return whether ``given`` is (images, labels)."""
    if not isinstance(given, tuple) or len(given) != 2:
        return False
    kinds = (np.ndarray, Tensor)
    return isinstance(given[0], kinds) and isinstance(given[1], (*kinds, list)) and np.ndim(given[1]) == 1


def rows_in(part: Any) -> int:
    """Return how many images are in ``part``."""
    if _is_arrays(part):
        return len(part[1])
    return len(_samples(part))


def _samples(part: Any) -> Any:
    """Return the samples behind a DataLoader; anything else is its own (a Subset has a ``dataset``, too)."""
    from torch.utils.data import DataLoader

    return part.dataset if isinstance(part, DataLoader) else part


def chosen(given: Any, rows: Sequence[int]) -> Any:
    """Return what a hook returned with only ``rows`` of its training part, everything in its own form."""
    if isinstance(given, Mapping) and "train" in given:
        return {**given, "train": _chosen(given["train"], rows)}
    if _is_pair(given):
        return (_chosen(given[0], rows), *given[1:])
    return _chosen(given, rows)


def _chosen(part: Any, rows: Sequence[int]) -> Any:
    from torch.utils.data import DataLoader, RandomSampler, Subset

    if _is_arrays(part):
        picked = np.asarray(rows, np.int64)
        return part[0][picked], (np.asarray(part[1])[picked] if isinstance(part[1], list) else part[1][picked])
    if isinstance(part, DataLoader):
        return DataLoader(
            _chosen(part.dataset, rows),
            batch_size=part.batch_size,
            shuffle=isinstance(part.sampler, RandomSampler),
            collate_fn=part.collate_fn,
            num_workers=part.num_workers,
            drop_last=part.drop_last,
        )
    if hasattr(part, "select"):  # a data set of Hugging Face
        return part.select(rows)
    if isinstance(part, list):
        return [part[row] for row in rows]
    return _narrowed(part, rows) or Subset(part, list(rows))


def _narrowed(part: Any, rows: Sequence[int]) -> Any | None:
    """Return a data set of the same class with ``rows`` alone, for apps that read its attributes (``.targets``).

    Whatever it keeps one value per sample of is cut down. None: what comes out are not these samples.
    """
    cut = {
        name: [value[row] for row in rows] if isinstance(value, list) else value[np.asarray(rows, np.int64)]
        for name, value in getattr(part, "__dict__", {}).items()
        if isinstance(value, list | np.ndarray | Tensor) and np.ndim(value) and len(value) == len(part)
    }
    narrowed = copy(part)
    narrowed.__dict__.update(cut)
    try:
        looked_at = range(0, len(rows), 1 + len(rows) // _LOOKED_AT)
        same = len(narrowed) == len(rows) and all(_same(narrowed[place], part[rows[place]]) for place in looked_at)
    except Exception:  # theirs, and of any kind: then it is given as a Subset
        return None
    return narrowed if same else None


def _same(some: Any, other: Any) -> bool:
    """Return whether two samples have the same label; their images may be augmented at random."""
    first, second = (np.asarray(_pair(each, "")[1]) for each in (some, other))
    return bool(np.array_equal(first, second))


def images_and_labels(
    part: Any,
    shape: tuple[int, int, int],
    canvas: tuple[int, int, int],
    prepare: Prepare | None,
    who: str,
    names: Sequence[str] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the images of a data set as uint8 [N, C, H, W] of ``canvas``, and its labels, int64 [N].

    Args:
        part: arrays (images, labels); a DataLoader; or anything with a length whose items are (image, label) or tables.
        shape: (C, H, W) the network takes.
        canvas: (C, H, W) attacks and auditor use.
        prepare: undoes the hook's normalisation; None: it gives pixels.
        who: names the key and the call, for messages.
        names: of the classes, in order, for labels that are words; None: words are numbered as they sort.

    Raises:
        DataError: items of another form, images of another shape or outside [0, 1], labels that are neither numbers
            nor names of classes.
        TheirError: the data set raised.
    """
    try:
        if _is_arrays(part):
            items = list(zip(part[0], part[1], strict=True))
        else:
            data = _samples(part)
            items = [data[row] for row in range(len(data))]
    except Exception as error:
        raise TheirError(f"{who} gave a {type(part).__name__} that cannot be read item by item", error) from error
    if not items:
        return np.empty((0, *canvas), np.uint8), np.empty(0, np.int64)
    pairs = [_pair(item, who) for item in items]
    images = torch.stack([_image(image, shape, who) for image, _ in pairs])
    if prepare is not None:
        images = prepare(images)
    low, high = float(images.min()), float(images.max())
    if low < -_SLACK or high > 1 + _SLACK:
        fix = (
            "correct inputs.mean and inputs.std, which are undone"
            if prepare is not None
            else 'give pixels in [0, 1]; if they are normalised as inputs.mean and inputs.std say, set pixels = "input"'
        )
        raise DataError(f"{who} gave images with values from {low:.3g} to {high:.3g}; {fix}")
    fitted = on_canvas(images.clamp(0, 1), (canvas[1], canvas[2]))
    return fitted.mul(255).round().to(torch.uint8).numpy(), _numbers([label for _, label in pairs], names, who)


def _pair(item: Any, who: str) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        pair = [next((item[key] for key in keys if key in item), None) for keys in (_IMAGE_KEYS, _LABEL_KEYS)]
        if pair[0] is None or pair[1] is None:
            raise DataError(
                f"{who} gave a row with the keys {sorted(map(str, item))}; an image ({', '.join(_IMAGE_KEYS)}) and a "
                f"label ({', '.join(_LABEL_KEYS)}) are looked for: name a function in data that renames them"
            )
        return pair[0], pair[1]
    if isinstance(item, tuple | list) and len(item) >= 2:
        return item[0], item[1]
    raise DataError(f"{who} gave a {type(item).__name__}; (image, label) or a table with these keys is needed")


def _image(image: Any, shape: tuple[int, int, int], who: str) -> Tensor:
    """Return one image as float32 [C, H, W]; whole numbers are taken as 0 to 255."""
    try:
        values = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    except TypeError as error:
        raise DataError(
            f"{who} gave an image of type {type(image).__name__}; a tensor, array or PIL image is needed"
        ) from error
    unit = values.float() if values.is_floating_point() else values.float() / 255
    if unit.dim() == 2:
        unit = unit[None]
    if unit.dim() == 3 and unit.shape[0] != shape[0] and unit.shape[2] == shape[0]:
        unit = unit.permute(2, 0, 1)
    if tuple(unit.shape) != shape:
        raise DataError(
            f"{who} gave an image of shape {tuple(values.shape)}, but inputs.shape = {list(shape)}; correct one"
        )
    return unit


def _numbers(labels: Sequence[Any], names: Sequence[str] | None, who: str) -> NDArray[np.int64]:
    """Return class numbers; labels that are words are looked up in ``names``."""
    words = sorted({label for label in labels if isinstance(label, str)})
    place = {name: number for number, name in enumerate(words if names is None else names)}
    if strange := [word for word in words if word not in place]:
        listed = f"classes are {', '.join(place)}" if place else "classes is a number: write their names, in order"
        raise DataError(f"{who} gave the label {strange[0]!r}; {listed}")
    try:
        return np.asarray([place[label] if isinstance(label, str) else int(label) for label in labels], np.int64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{who} gave the label {labels[0]!r}; numbers from 0 on or names of classes are needed"
        ) from error


def on_canvas(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return ``images`` [N, C, h, w] in the middle of a black canvas of ``size``, or reduced to it."""
    height, width = images.shape[2:]
    if (height, width) == size:
        return images
    if height > size[0] or width > size[1]:
        return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return F.pad(images, (left, size[1] - width - left, top, size[0] - height - top))
