"""A vision transformer whose forward takes and returns what Hugging Face's do."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Config:
    """Sizes of the network."""

    image_size: int = 32
    patch_size: int = 8
    hidden_size: int = 32
    layers: int = 2
    num_labels: int = 5


class TileTransformer(nn.Module):
    """Patches, a class token, two layers, a linear classifier."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, config.hidden_size, config.patch_size, config.patch_size)
        self.token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        count = (config.image_size // config.patch_size) ** 2
        self.positions = nn.Parameter(0.02 * torch.randn(1, count + 1, config.hidden_size))
        layer = nn.TransformerEncoderLayer(config.hidden_size, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Return ``logits`` and, with labels, ``loss``."""
        tokens = self.patches(pixel_values).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1) + self.positions
        logits = self.classifier(self.norm(self.encoder(tokens))[:, 0])
        outputs = {"logits": logits}
        if labels is not None:
            outputs["loss"] = F.cross_entropy(logits, labels)
        return outputs


def make_model() -> TileTransformer:
    """Return the network of this project."""
    return TileTransformer(Config())
