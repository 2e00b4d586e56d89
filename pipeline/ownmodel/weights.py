"""A weights file as it is given: safetensors, of ours or of anybody, or what ``torch.save`` wrote."""

from dataclasses import dataclass
from pathlib import Path

import torch

from fedinverse.errors import ConfigError
from fedinverse.models import Classifier, is_code, refuse_code, spec_of
from fedinverse.models.declared import DeclaredClassifier
from fedinverse.models.published import convert, read_pickle
from fedinverse.records import ModelFile
from fedinverse.storage import load_weights, read_metadata

_PICKLES = (".pth", ".pt", ".tar", ".bin", ".ckpt")


@dataclass(frozen=True)
class Loaded:
    """A weights file in its network.

    Attributes:
        model: its name or declaration.
        round: the federation round after which a server had it, where the file says it; 1: it does not.
    """

    network: Classifier
    model: str
    width: float
    round: int

    @property
    def takes(self) -> tuple[int, int, int]:
        """(C, H, W) at which images are read: the network's own, or a canvas that is smaller."""
        canvas = self.network.input_shape
        declared = self.network.declaration.shape if isinstance(self.network, DeclaredClassifier) else canvas
        return declared if declared[1] * declared[2] < canvas[1] * canvas[2] else canvas


def load(path: Path, model: str, width: float | None) -> Loaded:
    """Read ``path`` into its network; no code of the file is run.

    Args:
        model: name or declaration of the network; empty: the file says it.
        width: its multiplier; None: the file's, or read from the shapes.

    Raises:
        ConfigError: nothing is there, or the network is said nowhere, or twice and differently.
        IntegrityError: damaged, or of another network; names the arrays.
    """
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; give a .safetensors file, or one that torch.save wrote")
    unsaid = f"{path} does not say of which network it is: give --model (see 'fedinverse names')"
    if path.suffix.lower() in _PICKLES:
        if not model:
            raise ConfigError(unsaid)
        converted = convert(read_pickle(path), model, width, str(path), backbone=False)
        return Loaded(converted.network, model, converted.width, 1)
    about = read_metadata(path)
    stored = about.get("model", "")
    if model and stored and stored != model:
        fix = f"write --model '{stored}'" if is_code(stored) else "leave --model out"
        raise ConfigError(f"--model is {model}, but {path} says {stored}; {fix}")
    name = model or stored
    if not name:
        raise ConfigError(unsaid)
    if not model:
        refuse_code(name, path)
    spec_of(name)
    arrays, about = load_weights(path)
    tensors = {key: torch.from_numpy(value) for key, value in arrays.items()}
    converted = convert(tensors, name, width, str(path), backbone=False)
    return Loaded(converted.network, name, converted.width, max(1, ModelFile.of(about).round))
