"""The cache of priors, as people see it: one safetensors file each, with a description and a picture beside it.

The weights alone do not tell how they were trained, and a generator cannot be rebuilt from them. ``describe`` therefore
writes ``.json`` (what it was made from) and ``.png`` (samples) beside the file. A prior that a run trained has neither
until ``fedinverse prior train`` is asked for the same one, which then reads it from the cache.
"""

from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from attacker.attacks.attack import Attack
from attacker.priors.external import Network
from attacker.priors.prior import Prior, prior_path
from attacker.priors.shipped import Shipped, zoo
from attacker.target import PublicSet
from fedinverse.errors import ConfigError
from fedinverse.seeds import generator
from fedinverse.storage import read_json, read_metadata, write_json
from pipeline.cli.pictures import COLUMNS, save_sheet, shape_text

HEADER = ["name", "key", "size", "when", "seconds", "made for"]
SHIPPED_HEADER = ["name", "key", "size", "KID", "made for", "licence"]
_ROWS = 8


@dataclass(frozen=True)
class CachedPrior:
    """A prior's file in the cache."""

    path: Path

    @property
    def name(self) -> str:
        """What trained it."""
        return self.path.stem.rpartition("-")[0]

    @property
    def key(self) -> str:
        """The part of its key that names its file."""
        return self.path.stem.rpartition("-")[2]

    @property
    def picture(self) -> Path:
        """Where its samples are pictured, if they are."""
        return self.path.with_suffix(".png")

    @property
    def description(self) -> Path:
        """Where it says what it was made from, if it does."""
        return self.path.with_suffix(".json")

    @property
    def about(self) -> dict[str, Any]:
        """Attack, settings, public images, shape and seed; empty if not stored."""
        return read_json(self.description) if self.description.exists() else {}

    @property
    def line(self) -> list[str]:
        """Its line under ``HEADER``."""
        about, seconds = self.about, read_metadata(self.path).get("seconds")
        return [
            self.name,
            self.key,
            f"{self.path.stat().st_size / 2**20:.1f} MiB",
            self._when,
            "–" if seconds is None else f"{float(seconds):.1f}",
            _summary(about) if about else "–",
        ]

    @property
    def everything(self) -> dict[str, Any]:
        """All that is known of it, by name."""
        without = "none: 'fedinverse prior train' with the same settings, images and seed makes it"
        return {
            "file": self.path,
            "when": self._when,
            **read_metadata(self.path),
            **(self.about or {"settings": without}),
            "picture": self.picture if self.picture.exists() else without,
        }

    @property
    def _when(self) -> str:
        return datetime.fromtimestamp(self.path.stat().st_mtime).strftime("%Y-%m-%d %H:%M")


def cached_priors() -> list[CachedPrior]:
    """Return every prior in the cache, oldest first."""
    files = prior_path("any", "any").parent.glob("*.safetensors")
    return [CachedPrior(path) for path in sorted(files, key=lambda path: path.stat().st_mtime_ns)]


def cached_prior(key: str) -> CachedPrior:
    """Return the prior whose key begins with ``key``; ``ConfigError`` if none or several do."""
    matching = [entry for entry in cached_priors() if key and (key.startswith(entry.key) or entry.key.startswith(key))]
    if len(matching) != 1:
        matches = ", ".join(entry.key for entry in matching) or "none does"
        raise ConfigError(f"'{key}' must begin the key of one cached prior ({matches}); see 'fedinverse prior list'")
    return matching[0]


def shipped_line(entry: Shipped) -> list[str]:
    """Return a shipped prior's line under ``SHIPPED_HEADER``."""
    size = f"{entry.path.stat().st_size / 2**20:.1f} MiB" if entry.path.exists() else "missing"
    recipe = f"{entry.prior} on {entry.recipe} {shape_text(entry.shape)}"
    return [entry.name, entry.key[:16], size, f"{entry.kid:.0f}e-6", recipe, entry.licence]


def all_about(key: str) -> dict[str, Any]:
    """Return all that is known of the prior whose key begins with ``key``, or that is shipped under that name.

    Raises:
        ConfigError: none or several are meant.
    """
    for entry in zoo():
        if key == entry.name or (key and entry.key.startswith(key)):
            files = {"file": entry.path, "picture": entry.path.with_suffix(".png")}
            return files | asdict(entry) | {"shape": shape_text(entry.shape)}
    return cached_prior(key).everything


def describe(prior: Prior, attack: Attack, public: PublicSet, seed: int, device: torch.device) -> CachedPrior:
    """Write description and picture of a trained ``prior`` beside its weights."""
    about = {
        "attack": attack.name,
        "settings": attack.settings.model_dump(mode="json")["prior"],
        "public": public.key,
        "images": len(public.images),
        "shape": shape_text(prior.shape),
        "seed": seed,
    }
    return _write(prior, about, device)


def describe_external(prior: Prior, network: Network, origin: str) -> CachedPrior:
    """Write description and picture of an added ``prior`` that came from ``origin`` beside its weights."""
    critic = "with its critic" if prior.critic is not None else "without a critic"
    about = {
        "architecture": network.architecture,
        "origin": origin,
        "shape": shape_text(prior.shape),
        "latent": prior.latent,
        "critic": critic,
    }
    return _write(prior, about, torch.device("cpu"))


def _write(prior: Prior, about: dict[str, Any], device: torch.device) -> CachedPrior:
    entry = CachedPrior(prior_path(prior.name, prior.key))
    samples = prior.sample(_ROWS * COLUMNS, generator(int(about.get("seed", 0)), "prior", "samples"), device).cpu()
    save_sheet(entry.picture, samples.split(COLUMNS))
    write_json(entry.description, about)
    return entry


def _summary(about: dict[str, Any]) -> str:
    public = about.get("public", "").partition("-")[0]
    origin = about["architecture"] if "architecture" in about else f"{about['attack']} on {public}"
    return f"{origin} {about['shape']}"
