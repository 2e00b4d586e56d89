"""The prior zoo: trained priors that come with the package, so that the first run of a newcomer trains none.

``zoo/zoo.json`` says of each what it was made from, its SHA-256, its licence and how good it is; the weights lie
beside it, in half precision, and a sheet of samples. An attack whose settings and public images are those of a shipped
prior takes it, whatever the run's seed, unless ``prior.shipped`` is false. It enters the cache under its key like one
that was trained here. Runs of several seeds then share one prior: differences between them do not hold its luck.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fedinverse.errors import IntegrityError
from fedinverse.storage import atomic_write, file_sha256, read_json, typed

ZOO = Path(__file__).parent / "zoo"


@dataclass(frozen=True)
class Shipped:
    """A prior of the zoo.

    Attributes:
        name: of its files.
        prior: what trained it, such as ``wgan-gp``.
        version: of that training.
        recipe: ``PublicSet.recipe`` of the images it was trained on.
        shape: (C, H, W) of its images.
        settings: of its training, without ``shipped``.
        seed: of its training.
        key: under which it lies in the cache.
        sha256: of its file.
        licence: of its weights.
        kid: kernel distance, in millionths, of its samples to public images of another seed, in the auditor's
            embedding fitted to these (``benchmarks/ship_prior.py``); 0 is as near as other public images are.
        command: that trained it.
    """

    name: str
    prior: str
    version: int
    recipe: str
    shape: tuple[int, int, int]
    settings: dict[str, Any]
    seed: int
    key: str
    sha256: str
    licence: str
    kid: float
    command: str

    @property
    def path(self) -> Path:
        """Its weights in the package."""
        return ZOO / f"{self.name}.safetensors"

    def into(self, cached: Path) -> None:
        """Copy it to where the cache keeps it, unless it is there.

        Raises:
            IntegrityError: its file is absent or not the one that was published; names it.
        """
        if cached.exists():
            return
        if not self.path.exists() or file_sha256(self.path) != self.sha256:
            raise IntegrityError(
                f"{self.path} is not the shipped prior '{self.name}' (SHA-256 {self.sha256[:12]}…): the file was "
                "altered; install the package again, or set prior.shipped = false to train one"
            )
        atomic_write(cached, self.path.read_bytes())


@cache
def zoo() -> tuple[Shipped, ...]:
    """Return every shipped prior.

    Raises:
        IntegrityError: the package's list of them was altered.
    """
    path = ZOO / "zoo.json"
    return tuple(typed(Shipped, entry, path) for entry in read_json(path))


def shipped_prior(
    prior: str, version: int, settings: Mapping[str, Any], recipe: str, shape: tuple[int, int, int]
) -> Shipped | None:
    """Return the shipped prior made with exactly these settings from these public images, if there is one."""
    wanted = (prior, version, recipe, shape, dict(settings))
    for entry in zoo():
        if (entry.prior, entry.version, entry.recipe, entry.shape, entry.settings) == wanted:
            return entry
    return None
