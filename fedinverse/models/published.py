"""Published checkpoints for our networks: which array is called what, and the one-off conversion from ``.pth``.

Networks differ between repositories in the names of their modules alone. The tables below hold, for each of ours, the
modules as published (FedInverse, BiDO, KED-MI, face.evoLVe, torchvision) and as they are called here.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from fedinverse.errors import ConfigError, IntegrityError
from fedinverse.models.classifier import Classifier
from fedinverse.models.improved_resnet import IR50, IR152
from fedinverse.models.names import build
from fedinverse.models.shapes import size_of
from fedinverse.storage import into_module, load_weights, to_weights

Names = dict[str, str]  # module as published -> module here
BACKBONE = "backbone"  # value of the metadata key "part" of a file without the layers before the logits
_OWN = ("head", "pool")  # those layers, in our networks
_WRAPPERS = re.compile(r"^(module\.)+")  # torch.nn.DataParallel


def _in_order(name: str, lengths: tuple[int, ...]) -> Names:
    """One published sequence ``name`` that is cut into our blocks of so many layers."""
    places = [(block, layer) for block, length in enumerate(lengths) for layer in range(length)]
    return {f"{name}.{index}": f"blocks.{block}.{layer}" for index, (block, layer) in enumerate(places)}


def _mcnn() -> Names:
    return {f"layer{number + 1}": f"blocks.{number}" for number in range(3)} | {"fc_layer": "head"}


def _scnn() -> Names:
    return _in_order("feature", (4, 4, 3, 3, 3)) | {"fc_layer": "head"}


def _lenet5() -> Names:
    features = {"features.0": "blocks.0.0", "features.2": "blocks.1.0"}
    return features | {"classifier.0": "blocks.2.1", "classifier.1": "blocks.2.3", "classifier.2": "head"}


def _vgg16() -> Names:
    layers = (7, 7, 10, 10, 10)  # torchvision's features; published as feature, or as layer1 to layer5 with BiDO
    blocks = {f"layer{number + 1}": f"blocks.{number}" for number in range(5)}
    return _in_order("features", layers) | _in_order("feature", layers) | blocks | {"bn": "pool.1", "fc_layer": "head"}


def _vib(plain: Callable[[], Names]) -> Callable[[], Names]:
    """The names of a network whose linear head is BiDO's and FedInverse's bottleneck."""
    return lambda: plain() | {"st_layer": "head.statistics", "fc_layer": "head.decide"}


def _resnet18() -> Names:
    names = {"conv1": "blocks.0.0", "bn1": "blocks.0.1", "fc": "head"}
    for stage in range(4):
        for unit in range(2):
            here = f"blocks.{stage}.{unit + 3 if stage == 0 else unit}"
            inside = {"conv1": "residual.0", "bn1": "residual.1", "conv2": "residual.3", "bn2": "residual.4"}
            inside |= {"downsample.0": "shortcut.1", "downsample.1": "shortcut.2"}
            names |= {f"layer{stage + 1}.{unit}.{theirs}": f"{here}.{ours}" for theirs, ours in inside.items()}
    return names


def _face(units: tuple[int, ...]) -> Callable[[], Names]:
    def names() -> Names:
        renamed = {f"input_layer.{index}": f"blocks.0.{index}" for index in range(3)}
        places = [(stage, unit) for stage, count in enumerate(units) for unit in range(count)]
        for index, (stage, unit) in enumerate(places):
            here = f"blocks.{stage}.{unit + 3 if stage == 0 else unit}"
            renamed |= {f"body.{index}.res_layer": f"{here}.residual"}
            renamed |= {f"body.{index}.shortcut_layer.{layer}": f"{here}.shortcut.{layer + 1}" for layer in range(2)}
        renamed |= {"output_layer": "pool", "fc_layer": "head"}
        return renamed | {f"feature.{theirs}": ours for theirs, ours in renamed.items()}

    return names


_NAMES: dict[str, Callable[[], Names]] = {
    "mcnn": _mcnn,
    "scnn": _scnn,
    "lenet5_linear": _lenet5,
    "mcnn_vib": _vib(_mcnn),
    "vgg16": _vgg16,
    "vgg16_vib": _vib(_vgg16),
    "resnet18": _resnet18,
    "resnet18_32": _resnet18,
    "face_evolve": _face(IR50),
    "ir152": _face(IR152),
    "facenet112": _face(IR50),
}


# Networks into which published arrays fit, and where they compute something else.
_OTHERS: dict[str, tuple[Callable[[], Names], str]] = {
    "lenet5": (_lenet5, "that LeNet-5 has no activations and ours has ReLU; give --model lenet5_linear"),
    "resnet18": (
        _resnet18,
        "a ResNet-18 with a 3x3 stem is published for 32 pixels with a stem of stride 1, ours for 64 pixels has "
        "stride 2; give --model resnet18_32, or --backbone to start a federation from it",
    ),
}


@dataclass(frozen=True)
class Converted:
    """Arrays under our names.

    Attributes:
        left_out: arrays of the file that are not among them: a backbone's own classifier.
        backbone: whether ``head`` and ``pool`` are the network's own, new ones.
    """

    network: Classifier
    width: float
    left_out: list[str]
    backbone: bool


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint with ``weights_only=True``: tensors and plain containers, never code.

    Returns:
        The arrays by name; of a table with ``state_dict`` or ``model``, those below it.

    Raises:
        IntegrityError: unreadable, or holding something else than weights.
    """
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError) as error:
        raise IntegrityError(
            f"{path}: not a checkpoint that can be read without running its code ({str(error).splitlines()[0]}); "
            "save its state_dict anew with torch.save"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise IntegrityError(f"{path}: holds no table of arrays (a state_dict)")
    return {_WRAPPERS.sub("", str(name)): value for name, value in loaded.items()}


def convert(
    arrays: Mapping[str, Tensor],
    model: str,
    width: float | None,
    origin: str,
    *,
    backbone: bool,
    classes: int | None = None,
) -> Converted:
    """Put a checkpoint's arrays into the network ``model``, strictly.

    BatchNorm's count of batches, which files of old do not have and FedInverse averaged, is set to 0 where absent.

    Args:
        arrays: by published name, or by the network's own.
        model: registered name, or the declaration of any other network (``fedinverse.models.declared``).
        width: multiplier of the network; None: read from the arrays.
        origin: the file, for messages.
        backbone: take the blocks only, to start a federation from; the file's classifier is left out.
        classes: number of classes; None: read from the arrays.

    Raises:
        ConfigError: the file has no classifier and ``backbone`` was not asked for, the number of classes cannot be
            read, or its weights belong to a network that computes something else.
        IntegrityError: arrays that are missing, unknown or of another shape; names every one.
    """
    if model in _OTHERS and not backbone:
        names, why = _OTHERS[model]
        theirs = {name for name in arrays if _here(name, names()) != name}
        if theirs:
            raise ConfigError(f"{origin} holds {min(theirs)} as published: {why}")
    renamed = {_here(name, _NAMES[model]() if model in _NAMES else {}): value for name, value in arrays.items()}
    if backbone and ":" in model:
        raise ConfigError(f"--backbone is for our own networks: where the blocks of '{model}' end is not known")
    shapes = {name: tuple(value.shape) for name, value in renamed.items()}
    count, width = size_of(model, shapes, origin, 2 if backbone else classes, width)
    network = build(model, count, width, seed=0)
    state = network.state_dict()
    wanted = {name for name in state if not (backbone and name.startswith(_OWN))}
    missing = sorted(name for name in wanted - renamed.keys() if not name.endswith("num_batches_tracked"))
    unknown = sorted(renamed.keys() - state.keys())
    misfits = [
        f"{name} is {tuple(renamed[name].shape)}, '{model}' at width {width:g} has {tuple(state[name].shape)}"
        for name in sorted(wanted & renamed.keys())
        if renamed[name].shape != state[name].shape
    ]
    problems = [f"missing: {', '.join(missing)}"] if missing else []
    problems += [f"unknown: {', '.join(unknown)}"] if unknown and not backbone else []
    if problems or misfits:
        raise IntegrityError("\n".join([f"{origin} does not fit '{model}':", *problems, *misfits]))
    fitting = {name: renamed[name].to(state[name].dtype) for name in wanted & renamed.keys()}
    network.load_state_dict(state | fitting)
    left_out = sorted(name for name in renamed if name not in wanted)
    return Converted(network, width, left_out, backbone)


def _here(name: str, names: Names) -> str:
    """Return ``name`` with the longest of its modules that is in ``names`` replaced."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:length])
        if module in names:
            return ".".join([names[module], *parts[length:]])
    return name


def start_from(network: Classifier, model: str, path: Path) -> None:
    """Copy the weights of a converted file into ``network`` in place; of a backbone, all but head and pool.

    Raises:
        IntegrityError: unreadable, altered, or of another network than ``model``; names the array.
    """
    weights, metadata = load_weights(path)
    theirs = metadata.get("model", model)
    # The same arrays may fit two networks that compute different things.
    if theirs != model and metadata.get("part") != BACKBONE:
        raise IntegrityError(f"{path}: holds weights of '{theirs}', not of '{model}'; set model.name to '{theirs}'")
    if metadata.get("part") == BACKBONE:
        weights |= {name: value for name, value in to_weights(network).items() if name.startswith(_OWN)}
    into_module(network, weights, str(path))
