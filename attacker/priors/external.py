"""Generators trained elsewhere, as priors: safetensors weights and the name of their network, or a class of the user's.

``fedinverse prior add`` checks one and keeps it in the cache; ``generator = "KEY"`` in an attack's table takes it
instead of training. The network is

* ``dcgan``: this project's generator (``attacker.priors.dcgan``) of a given image shape and width, perhaps with its
  critic, or
* ``package.module:Class``: a ``torch.nn.Module`` made without arguments that turns z [N, latent] from N(0, I) into
  images [N, C, H, W] in [0, 1], with an attribute ``latent`` (default 100).

The file holds the generator's state, or both networks' under ``generator.`` and ``critic.``. Nothing is unpickled, and
nothing is imported because a file says so: which class a key stands for is recorded beside the files when it is added,
and only a subclass of ``torch.nn.Module`` is ever made.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import nn

from attacker.priors.dcgan import Critic, Generator
from attacker.priors.prior import LATENT, Prior, prior_path
from fedinverse.errors import ConfigError, IntegrityError
from fedinverse.models import for_inference
from fedinverse.storage import (
    content_sha256,
    into_module,
    load_weights,
    read_metadata,
    read_object,
    save_weights,
    to_weights,
    weights_sha256,
    write_json,
)

NAME = "external"
DCGAN = "dcgan"
_CRITIC = "critic."
_WIDEST = 4.0  # as for the priors that are trained here


@dataclass(frozen=True)
class Network:
    """What external weights belong to; ``shape`` (C, H, W) and ``width`` are read for ``dcgan`` only."""

    architecture: str
    shape: tuple[int, int, int]
    width: float = 1.0

    def build(self, critic: bool) -> nn.ModuleDict:
        """Return the networks, with fresh weights.

        Raises:
            ConfigError: unknown architecture, a class that cannot be made, or a critic where none is known.
        """
        if self.architecture == DCGAN:
            if not 0 < self.width <= _WIDEST:
                raise ConfigError(
                    f"'{DCGAN}' of width {self.width} is not known; widths are above 0, at most {_WIDEST}"
                )
            nets: dict[str, nn.Module] = {"generator": Generator(self.shape, self.width)}
            if critic:
                nets["critic"] = Critic(self.shape, self.width)
            return nn.ModuleDict(nets)
        if critic:
            raise ConfigError(f"a critic beside '{self.architecture}' is not known; leave its 'critic.' arrays out")
        module, colon, name = self.architecture.rpartition(":")
        if not colon:
            raise ConfigError(f"architecture '{self.architecture}' is unknown; use '{DCGAN}' or 'package.module:Class'")
        try:
            kind = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"generator '{self.architecture}' cannot be imported ({error})") from error
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise ConfigError(f"generator '{self.architecture}' is not a subclass of torch.nn.Module")
        try:
            return nn.ModuleDict({"generator": kind()})
        except TypeError as error:
            raise ConfigError(f"generator '{self.architecture}' cannot be made without arguments ({error})") from error


def add_external(network: Network, file: Path | None) -> str:
    """Check a generator, keep it in the cache, return its key.

    Args:
        file: its weights; None keeps those that the user's class is made with.

    Raises:
        ConfigError: it cannot be made, or what it makes are no images.
        IntegrityError: the weights are damaged or do not fit; names the file.
    """
    if file is None and network.architecture == DCGAN:
        raise ConfigError(f"'{DCGAN}' without weights makes no images; give their .safetensors file")
    weights = dict(load_weights(file)[0]) if file is not None else {}
    nets = network.build(critic=any(name.startswith(_CRITIC) for name in weights))
    if not any(name.startswith("generator.") for name in weights):
        weights = {f"generator.{name}": array for name, array in weights.items()}
    if weights:
        into_module(nets, weights, str(file))
    latent = int(getattr(nets["generator"], "latent", LATENT))
    shape = checked(nets["generator"].eval(), latent, network.architecture)
    about = {"architecture": network.architecture, "width": network.width, "latent": latent, "shape": list(shape)}
    kept = to_weights(nets)
    key = content_sha256(about | {"weights": weights_sha256(kept), "critic": len(nets) > 1})
    metadata: dict[str, Any] = about | {"shape": "x".join(map(str, shape)), "critic": int(len(nets) > 1)}
    save_weights(prior_path(NAME, key), kept, metadata | {"key": key, "prior": NAME})
    with FileLock(_record().with_suffix(".lock")):
        write_json(_record(), _added() | {key: network.architecture})
    return key


def _record() -> Path:
    """Return the file that says which architecture the user named for each key."""
    return prior_path(NAME, "").parent / "added.json"


def _added() -> dict[str, Any]:
    return read_object(_record()) if _record().exists() else {}


@torch.no_grad()
def checked(generator: nn.Module, latent: int, name: str) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of the images that ``generator`` makes of z [N, latent].

    Raises:
        ConfigError: it fails, or makes no finite images [N, C, H, W] in [0, 1].
    """
    z = torch.randn(4, latent, generator=torch.Generator().manual_seed(0))
    try:
        images = generator(z)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ConfigError(f"generator '{name}' fails on z [4, {latent}]: {error}") from error
    if not isinstance(images, torch.Tensor) or images.dim() != 4 or len(images) != 4:
        shape = tuple(images.shape) if isinstance(images, torch.Tensor) else type(images).__name__
        raise ConfigError(f"generator '{name}' makes {shape} of 4 latents; images (4, C, H, W) are needed")
    if not torch.isfinite(images).all() or images.min() < -1e-4 or images.max() > 1 + 1e-4:
        raise ConfigError(
            f"generator '{name}' makes values from {float(images.min()):.3g} to {float(images.max()):.3g}; "
            "scale its images to [0, 1]"
        )
    channels, height, width = images.shape[1:]
    return channels, height, width


def external_prior(key: str, device: torch.device) -> Prior:
    """Return the added generator whose key begins with ``key``, ready for inference.

    Raises:
        ConfigError: none was added under that key, or several were.
        IntegrityError: the cached file is damaged, or says another architecture than was added.
    """
    added = _added()
    matches = [full for full in added if key and full.startswith(key) and prior_path(NAME, full).exists()]
    if len(matches) != 1:
        known = ", ".join(full[:16] for full in matches or added) or "none"
        raise ConfigError(
            f"'generator' names {key}, which must begin the key of one generator that was added ({known}); "
            "'fedinverse prior list' shows them, 'fedinverse prior add' adds one"
        )
    path = prior_path(NAME, matches[0])
    about = read_metadata(path)
    if (about.get("architecture"), about.get("key")) != (added[matches[0]], matches[0]):
        raise IntegrityError(
            f"{path} does not hold the '{added[matches[0]]}' that was added as {matches[0][:16]}; add it again"
        )
    channels, height, width = map(int, about["shape"].split("x"))
    shape = (channels, height, width)
    nets = Network(added[matches[0]], shape, float(about["width"])).build(critic=about["critic"] == "1")
    into_module(nets, load_weights(path)[0], str(path))
    critic = for_inference(nets["critic"], device) if "critic" in nets else None
    return Prior(NAME, for_inference(nets["generator"], device), critic, int(about["latent"]), shape, about["key"])
