"""Networks by name: registered ones, torchvision's, and any other that a declaration describes."""

import re
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch

from fedinverse.errors import ConfigError
from fedinverse.models.classifier import MODELS, Classifier, ModelSpec
from fedinverse.models.declared import declared
from fedinverse.models.torchvision_model import INPUT_SHAPE, TorchvisionClassifier
from fedinverse.seeds import seeded
from fedinverse.words import plain

model_names = MODELS.names


def spec_of(name: str) -> ModelSpec:
    """Return the network called ``name``.

    Args:
        name: as ``fedinverse.registry`` says; ``torchvision:name`` for one of torchvision's; or the declaration of any
            other network, ``package.module:Net?shape=3,32,32`` (``fedinverse.models.declared``).

    Raises:
        ConfigError: unknown name (names the nearest one), or a module that cannot be imported.
    """
    if "?" in name:
        return declared(name)
    module, _, registered = name.rpartition(":")
    if module in ("torchvision", "torchvision.models"):
        return ModelSpec(name, INPUT_SHAPE, "torchvision", partial(TorchvisionClassifier, registered))
    return MODELS.get(name)


_TORCHVISION = re.compile(r"torchvision(\.models)?:\w+")


def is_code(name: str) -> bool:
    """Return whether ``name`` has something imported that is neither ours, nor a plugin's, nor torchvision's.

    The adapters of a declaration are code too, whatever network they are put around.
    """
    return any(sign in name for sign in ":?%") and _TORCHVISION.fullmatch(name) is None


def refuse_code(name: str, path: Path) -> None:
    """Raise ``ConfigError`` if the network that a file alone names is code: whoever knows that code says so."""
    if is_code(name):
        raise ConfigError(
            f"{path} says that its network is code to be imported, '{plain(name)}'. If you know that code, say so with "
            "--model and this text"
        )


def same_network(one: str, other: str) -> bool:
    """Return whether two names stand for one architecture, however they are spelled."""
    first, second = spec_of(one).construct, spec_of(other).construct
    if isinstance(first, partial) and isinstance(second, partial):  # torchvision's
        return first.func is second.func and first.args == second.args
    return first is second


def build(name: str, classes: int, width: float = 1.0, seed: int | None = None) -> Classifier:
    """Build the network ``name`` with ``classes`` outputs.

    Args:
        classes: number of logits K, at least 2.
        width: multiplies every hidden width; 1 is the published size.
        seed: seeds the initial weights without touching the global generator; None uses the global one.

    Returns:
        The network in train mode, on the CPU, float32, channels-last. (A declared one keeps its own types and layout.)
    """
    spec = spec_of(name)
    with nullcontext() if seed is None else seeded(seed):
        model = spec.construct(classes, width)
    if not isinstance(model, Classifier):
        raise ConfigError(f"model '{name}' makes a {type(model).__name__}, no fedinverse.models.Classifier")
    model.input_shape, model.classes = spec.input_shape, classes
    return model.to(memory_format=model.memory_format)


def why_not(name: str, width: float, images: int) -> str:
    """Return why the network cannot train on a batch of so many images of its shape; empty: it can.

    One forward pass of the untrained network tells.
    """
    network = build(name, 2, width, seed=0).train()
    try:
        with torch.no_grad(), seeded(0):
            seen = network.features(torch.rand(images, *network.input_shape))
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    shape = tuple(seen.logits.shape)
    return "" if shape == (images, 2) else f"its logits are {shape} for {images} images and 2 classes"
