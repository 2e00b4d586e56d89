"""Update pruning: send only the largest changes, the compression of Lin et al. (2018), Zhu et al. (2019)."""

import torch
from pydantic import Field
from torch import nn

from clients.defences.defence import Defence, register
from fedinverse.config import Section
from fedinverse.models import Classifier


class PruningSettings(Section):
    """How much is kept."""

    keep: float = Field(0.1, gt=0, le=1, description="share of the weights whose change is sent, the largest ones")


@register("update_pruning")
class UpdatePruning(Defence):
    """Plain training, all but the largest changes of weights taken back. BatchNorm buffers are sent whole."""

    Settings = PruningSettings

    def __init__(self, settings: PruningSettings) -> None:
        super().__init__(settings)
        self._weights: list[nn.Parameter] = []
        self._start: list[torch.Tensor] = []

    def prepare(self, model: Classifier, examples: int, generator: torch.Generator) -> Classifier:
        """Remember the global weights."""
        del examples, generator
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._start = [weight.detach().clone() for weight in self._weights]
        return model

    @torch.no_grad()
    def finish(self, model: Classifier) -> None:
        """Keep the ``keep`` share of all entries that changed most, at least one; reset the others."""
        change = torch.cat(
            [(weight - start).abs().flatten() for weight, start in zip(self._weights, self._start, strict=True)]
        )
        kept = torch.zeros_like(change, dtype=torch.bool)
        kept[change.topk(max(1, round(self.settings.keep * len(change))), sorted=False).indices] = True
        masks = torch.split(kept, [weight.numel() for weight in self._weights])
        for weight, start, mask in zip(self._weights, self._start, masks, strict=True):
            weight.copy_(torch.where(mask.view_as(weight), weight, start))
        self._weights, self._start = [], []
