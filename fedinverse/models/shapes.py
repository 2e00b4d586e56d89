"""What the shapes of stored arrays say of the network they belong to, before any of it is built."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from fedinverse.errors import ConfigError, IntegrityError
from fedinverse.models.classifier import Classifier
from fedinverse.models.names import build, is_code
from fedinverse.storage import into_module, load_weights

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
WIDEST = 4.0  # as ``model.width`` of a configuration
_CLASSES = (2, 3)  # arrays whose shapes differ between these have one row per class
_WIDER = 2.0


def shapes_of(model: str, classes: int, width: float = 1.0) -> dict[str, Shape]:
    """Return the shape of every array of ``model``.

    One of ours takes no memory for it. Code that somebody else wrote was perhaps not made to be built that way, and is
    built as it is.
    """
    if is_code(model):
        network = build(model, classes, width, seed=0)
    else:
        with torch.device("meta"):
            network = build(model, classes, width, seed=0)
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def claimed(metadata: Mapping[str, str], origin: str) -> tuple[str, int, float]:
    """Return the model, the number of classes and the width that the metadata of a weights file claim.

    Raises:
        IntegrityError: one is missing, or no number.
    """
    try:
        return metadata["model"], int(metadata["classes"]), float(metadata["width"])
    except (KeyError, ValueError) as error:
        raise IntegrityError(
            f"{origin}: its metadata must say model, classes and width, the latter two as numbers ({error})"
        ) from error


def built_for(weights: Mapping[str, NDArray[Any]], model: str, classes: int, width: float, origin: str) -> Classifier:
    """Return the untrained network of ``weights``, built once they were seen to be its: see ``check_shapes``."""
    check_shapes({name: tuple(array.shape) for name, array in weights.items()}, model, classes, width, origin)
    return build(model, classes, width, seed=0)


def network_in(path: Path) -> tuple[Classifier, dict[str, NDArray[Any]]]:
    """Return the network that a weights file says it is of, with its weights, and these.

    Raises:
        IntegrityError: the file is damaged, does not say its network, or holds other arrays; names it.
    """
    weights, about = load_weights(path)
    network = built_for(weights, *claimed(about, str(path)), str(path))
    into_module(network, weights, str(path))
    return network, weights


def check_shapes(shapes: Shapes, model: str, classes: int, width: float, origin: str) -> None:
    """Refuse arrays that are not of ``model``, before a network of a claimed size takes up memory.

    Args:
        model: name of a network; of one that is code to be imported only the claims are looked at.
        classes: number of classes that the origin claims.
        width: multiplier that it claims.
        origin: the file or message, for the error.

    Raises:
        IntegrityError: names the origin and what does not fit.
    """
    largest = max((side for shape in shapes.values() for side in shape), default=0)
    if not 0 < width <= WIDEST:
        raise IntegrityError(f"{origin} says width {width:g}; widths lie above 0 and at {WIDEST:g} or below")
    if not 2 <= classes <= largest:
        raise IntegrityError(
            f"{origin} says {classes} classes, but its largest array has {largest} rows; it was altered, or is of "
            "another network"
        )
    if is_code(model):
        return
    needed = shapes_of(model, classes, width)
    if needed != dict(shapes):
        other = sorted(set(needed.items()) ^ set(shapes.items()))[0]
        raise IntegrityError(f"{origin} is not '{model}' of width {width:g} with {classes} classes: see '{other[0]}'")


def size_of(
    model: str, shapes: Shapes, origin: str, classes: int | None = None, width: float | None = None
) -> tuple[int, float]:
    """Return the number of classes and the width with which ``model`` has arrays of these shapes.

    Args:
        model: name of a network, whose arrays ``shapes`` are, by its own names.
        shapes: of the file's arrays; those the network has not are left aside.
        origin: the file, for messages.
        classes, width: said already; None: read from the shapes.

    Raises:
        ConfigError: the shapes do not tell the number of classes; says which option does.
    """
    width = _width_in(model, shapes) if width is None else width
    classes = _classes_in(model, shapes, width) if classes is None else classes
    if classes is None:
        raise ConfigError(
            f"{origin} holds no classifier of '{model}', so that the number of classes is unknown: give --classes, or "
            "--backbone if it is a backbone to start from"
        )
    return classes, width


def _width_in(model: str, shapes: Shapes) -> float:
    """Return the width with which the network has ``shapes``; 1 where it has none, or none fits."""
    narrow = shapes_of(model, _CLASSES[0])
    try:
        wide = shapes_of(model, _CLASSES[0], _WIDER)
    except ConfigError:  # torchvision's have one width
        return 1.0
    sides = {
        (theirs, ours)
        for name in narrow
        if name in shapes and len(narrow[name]) == len(shapes[name])
        for theirs, ours, other in zip(shapes[name], narrow[name], wide[name], strict=True)
        if ours != other
    }
    for width in _candidates(sides):
        there = shapes_of(model, _CLASSES[0], width)
        if all(there[name] == shapes[name] for name in _of_width(narrow, wide) if name in shapes):
            return width
    return 1.0


def _of_width(narrow: Shapes, wide: Shapes) -> list[str]:
    """Return the arrays that the width alone decides: that it changes, and no number of classes is among their sides.

    ``narrow`` and ``wide`` have two classes, and no layer of ours is so narrow.
    """
    return [name for name in narrow if narrow[name] != wide[name] and _CLASSES[0] not in narrow[name]]


def _candidates(sides: set[tuple[int, int]]) -> Iterator[float]:
    """Yield widths that would turn our side into theirs, the most frequent first, each as round as it can be."""
    for digits in (1, 2, 3, 4, 9):
        counts = Counter(round(theirs / ours, digits) for theirs, ours in sides)
        yield from (width for width, _ in counts.most_common() if 0 < width <= WIDEST)


def _classes_in(model: str, shapes: Shapes, width: float) -> int | None:
    """Return the side of the network's first array that follows the number of classes; None: the file has none."""
    few, more = (shapes_of(model, classes, width) for classes in _CLASSES)
    for name in few:  # in the network's order: two arrays of a damaged file may disagree, and a set has none
        if name in shapes and name in more and len(few[name]) == len(shapes[name]):
            for theirs, one, other in zip(shapes[name], few[name], more[name], strict=True):
                if (one, other) == _CLASSES:
                    return theirs
    return None
