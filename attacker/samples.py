"""Unoptimised samples of a prior, kept beside the inversions made with it: what its images look like before any attack.

They are drawn from another stream than the samples an inversion starts from. Whoever judges reconstructions can learn
from them what an image is that shows nothing; nothing of the attack itself reads them.
"""

from pathlib import Path

import torch

from attacker.priors.prior import Prior
from fedinverse.seeds import generator
from fedinverse.storage import save_weights

COUNT = 512


def keep_samples(store: Path, prior: Prior, seed: int, device: torch.device) -> str:
    """Write ``COUNT`` samples of ``prior`` to ``store``, uint8 [N, C, H, W], unless they are there.

    Returns:
        The name of the file, which the prior's key gives.
    """
    path = store / f"samples-{prior.key[:16]}.safetensors"
    if not path.exists():
        images = prior.sample(COUNT, generator(seed, "samples", prior.key), device)
        pixels = images.clamp(0, 1).mul(255).round().to(torch.uint8).cpu().contiguous()
        save_weights(path, {"images": pixels.numpy()}, {"prior": prior.key})
    return path.name
