"""Exponential average of a generator's weights; the average is what an attack samples from."""

import torch
from torch import Tensor, nn


def averaged(model: nn.Module) -> torch.optim.swa_utils.AveragedModel:
    """Return the running average of ``model``'s parameters and buffers; update it after every step."""
    return torch.optim.swa_utils.AveragedModel(model, avg_fn=_average, use_buffers=True)


def _average(kept: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    """Average with a decay that warms up: (1 + n) / (10 + n), at most .999."""
    n = torch.as_tensor(count)
    decay = ((1 + n) / (10 + n)).clamp(max=0.999)
    return torch.lerp(current, kept, decay.to(kept.dtype)) if kept.is_floating_point() else current
