"""Gradient ascent on candidates (Nasr, Shokri and Houmansadr, IEEE S&P 2019, active attack of a participant).

Before it answers, the attacker moves its trained model up the loss of some candidate records: theta <- theta + gamma
grad l. Whoever trains on one of them pulls the model back down in the next round; records that nobody trains on stay
where they were pushed. Half of the candidates are left alone, so that the gain can be seen beside them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field

from fedinverse.config import PathText, Section, parse
from fedinverse.data.source import unit
from fedinverse.models import Classifier
from fedinverse.shard import Shard, open_shard

CANDIDATES = "candidates"


class Ascent(Section):
    """Settings of the gradient-ascent participant."""

    candidates: PathText = Field(
        "",
        description="directory of the records it asks about, images.npy and labels.npy, the first half of which is "
        "pushed; empty: 'candidates' beside what it remembers",
    )
    gamma: float = Field(0.05, gt=0, description="length of the step up, in units of the mean gradient over candidates")


class AscentParticipant:
    """See the module. It remembers nothing between rounds."""

    def __init__(
        self, settings: Mapping[str, Any], seed: int, directory: Path, device: str | torch.device, origin: str
    ) -> None:
        del seed
        self.settings = parse(Ascent, dict(settings), "active", origin)
        self._device = torch.device(device)
        self._candidates = Path(self.settings.candidates or directory / CANDIDATES)

    def shard(self, network: Classifier, shard: Shard, server_round: int) -> Shard:
        """Train on the own images alone."""
        return shard

    def reply(self, network: Classifier, server_round: int) -> None:
        """Move ``network`` up the mean loss of the first half of the candidates.

        Raises:
            DataError: the candidates cannot be read.
        """
        pushed = pushed_half(open_shard(self._candidates))
        network.eval()
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        total = [torch.zeros_like(weight) for weight in weights]
        for rows in torch.arange(len(pushed)).split(256):
            logits = network(unit(pushed.images[rows], self._device))
            loss = F.cross_entropy(logits, pushed.labels[rows].to(self._device), reduction="sum")
            total = [sum_ + part for sum_, part in zip(total, torch.autograd.grad(loss, weights), strict=True)]
        with torch.no_grad():
            for weight, summed in zip(weights, total, strict=True):
                weight.add_(summed, alpha=self.settings.gamma / len(pushed))


def pushed_half(candidates: Shard) -> Shard:
    """Return the half of ``candidates`` whose loss is raised: the first."""
    count = len(candidates) // 2
    return Shard(candidates.images[:count], candidates.labels[:count])
