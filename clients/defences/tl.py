"""Transfer-learning defence (TL-DMI; Ho et al., CVPR 2024): private data trains the last layers only."""

from pathlib import Path

import torch
from pydantic import Field
from torch import nn

from clients.defences.defence import Defence, register
from fedinverse.config import PathText, Section
from fedinverse.errors import ConfigError
from fedinverse.models import Classifier
from fedinverse.models.classifier import BlockClassifier
from fedinverse.storage import load_weights


class TlSettings(Section):
    """Which layers are frozen, and at what."""

    frozen_blocks: int = Field(1, ge=1, description="number of blocks, counted from the image, that are frozen")
    checkpoint: PathText = Field(
        "",
        description="safetensors file of a model trained elsewhere; empty: freeze what the server sends",
    )


@register("tl")
class TransferLearning(Defence):
    """Freezes the front blocks: their weights and BatchNorm statistics come back as they were.

    With a checkpoint the front blocks are the checkpoint's in every round, whatever the server sends.
    """

    Settings = TlSettings

    def __init__(self, settings: TlSettings) -> None:
        super().__init__(settings)
        self._weights: list[nn.Parameter] = []

    @classmethod
    def check(cls, settings: TlSettings, model: Classifier) -> None:
        """Refuse a model without blocks, freezing all of them, and a checkpoint that does not fit."""
        blocks = len(model.blocks) if isinstance(model, BlockClassifier) else 0
        if settings.frozen_blocks >= blocks:
            raise ConfigError(
                f"defence tl: frozen_blocks is {settings.frozen_blocks} but {type(model).__name__} has "
                f"{blocks} blocks, of which one must train; lower it or choose another defence"
            )
        if settings.checkpoint:
            _front(settings, model)

    def prepare(self, model: Classifier, examples: int, generator: torch.Generator) -> Classifier:
        """Load the front blocks if asked, and freeze them."""
        del examples, generator
        if self.settings.checkpoint:
            state = model.state_dict()
            with torch.no_grad():
                for name, tensor in _front(self.settings, model).items():
                    state[name].copy_(tensor)
        blocks: nn.ModuleList = model.blocks  # type: ignore[assignment]
        front = blocks[: self.settings.frozen_blocks]
        self._weights = [weight for weight in front.parameters() if weight.requires_grad]
        front.eval().requires_grad_(False)
        return model

    def finish(self, model: Classifier) -> None:
        """Unfreeze what was not frozen before."""
        for weight in self._weights:
            weight.requires_grad_(True)
        model.train()


def _front(settings: TlSettings, model: Classifier) -> dict[str, torch.Tensor]:
    path = Path(settings.checkpoint)
    if not path.is_file():
        raise ConfigError(f"defence tl: checkpoint '{path}' does not exist; give the path of a safetensors file")
    weights, _ = load_weights(path)
    front = {}
    for name, tensor in model.state_dict().items():
        kind, _, rest = name.partition(".")
        if kind != "blocks" or int(rest.partition(".")[0]) >= settings.frozen_blocks:
            continue
        if name not in weights or weights[name].shape != tuple(tensor.shape):
            shape = tuple(weights[name].shape) if name in weights else "none"
            raise ConfigError(
                f"defence tl: checkpoint '{path}' does not fit {type(model).__name__}: array '{name}' "
                f"must be {tuple(tensor.shape)}, found {shape}; train it with the same model and width"
            )
        front[name] = torch.from_numpy(weights[name])
    return front
