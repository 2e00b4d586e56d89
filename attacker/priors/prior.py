"""A prior: a generator from a standard normal latent to images, perhaps with its critic; stored as safetensors."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor, nn

from fedinverse.data.source import cache_directory
from fedinverse.storage import into_module, load_weights, save_weights, to_weights


@dataclass(frozen=True)
class Prior:
    """A trained generator, with its critic where the attack needs one.

    Attributes:
        name: what trained it.
        generator: z [N, latent] from N(0, I) -> images [N, C, H, W] in [0, 1].
        critic: images -> realness [N], higher is more natural; None if there is none.
        latent: dimension of z.
        shape: (C, H, W) of the images.
        key: hash of everything it was made from.
        seconds: what training it cost, now or when it came into the cache; 0 for one made elsewhere.
    """

    name: str
    generator: nn.Module
    critic: nn.Module | None
    latent: int
    shape: tuple[int, int, int]
    key: str
    seconds: float = 0.0

    def sample(self, count: int, generator: torch.Generator, device: torch.device) -> Tensor:
        """Return ``count`` unoptimised images [count, C, H, W] in [0, 1]."""
        z = torch.randn(count, self.latent, generator=generator).to(device)
        with torch.inference_mode():
            return torch.cat([self.generator(part) for part in torch.split(z, 256)])


def prior_path(name: str, key: str) -> Path:
    """Return where a prior with that key is cached."""
    return cache_directory() / "priors" / f"{name}-{key[:16]}.safetensors"


def cached(name: str, key: str, networks: nn.ModuleDict, train: Callable[[], dict[str, str]]) -> dict[str, str]:
    """Fill ``networks`` from the cache, or call ``train`` (which trains them in place) and store them.

    Returns:
        The metadata ``train`` returned, now or when the prior was trained.

    Raises:
        IntegrityError: the cached file is damaged; the message names it.
    """
    path = prior_path(name, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # of several workers, one trains and the others wait for it
        if path.exists():
            weights, metadata = load_weights(path)
            into_module(networks, weights, str(path))
            return metadata
        metadata = train() | {"key": key, "prior": name}
        save_weights(path, to_weights(networks), metadata)
        return metadata
