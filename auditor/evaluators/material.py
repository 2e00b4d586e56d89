"""What evaluators learn from; and what makes them independent of those they judge, checked before every use.

Published evaluators share the target's architecture, training data and mistakes. Here E1 is another network, trained on
vault images alone, and no image is in two parts of the split: not in the vault and at a client (E1 would know the
target's training images), nor in the reserve and at a client (the ceiling and the member lift compare with images that
nobody trained on).
"""

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from auditor.settings import Evaluator
from fedinverse.errors import ConfigError
from fedinverse.models import same_network, spec_of
from fedinverse.private import part_of
from fedinverse.run import Run
from fedinverse.shard import Shard
from fedinverse.split import NOBODY


@dataclass(frozen=True)
class Material:
    """What evaluators learn from and are tested with. Images are read when they are first asked for.

    Attributes:
        run: whose images they are.
        listed: hash and class of every vault image, in training order.
    """

    run: Run
    listed: list[list[object]]

    @property
    def classes(self) -> int:
        """The number K of private classes."""
        return len(self.run.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return spec_of(self.run.model.name).input_shape

    @cached_property
    def vault(self) -> Shard:
        """The images they learn from."""
        return part_of(self.run, "vault")

    @cached_property
    def reserve(self) -> Shard:
        """Images that nobody learned from."""
        return part_of(self.run, "reserve")


def material_of(run: Run, settings: Evaluator) -> Material:
    """Return what evaluators of ``run`` learn from, once ``check_independent`` has passed.

    Raises:
        ConfigError: they would not be independent.
    """
    check_independent(run, settings)
    listed = run.split.loc[run.split["part"] == "vault", ["sha256", "label"]].to_numpy().tolist()
    return Material(run, listed)


def check_independent(run: Run, settings: Evaluator) -> None:
    """Refuse evaluators that cannot be independent of the run's target, or of each other.

    Raises:
        ConfigError: one has the target's architecture or another image shape, both have one architecture, or their
            training images meet a client's; or an image is in two parts of the split.
    """
    for key, name in (("model", settings.model), ("second", settings.second)):
        if not name:
            continue
        if same_network(name, run.model.name):
            raise ConfigError(
                f"audit.evaluator.{key} is '{name}', the target's own architecture: it would share its "
                "mistakes; choose another one"
            )
        wanted, given = spec_of(run.model.name).input_shape, spec_of(name).input_shape
        if wanted != given:
            raise ConfigError(f"audit.evaluator.{key} '{name}' takes images {given}, the target {wanted}")
    if settings.second and same_network(settings.second, settings.model):
        raise ConfigError(
            f"audit.evaluator.second is '{settings.second}', the first evaluator's architecture: their agreement would "
            "say little; choose another one, or leave it empty for the auditor's own"
        )
    check_disjoint_parts(run.split)


def check_disjoint_parts(manifest: pd.DataFrame) -> None:
    """Refuse a split manifest in which a client holds an image of vault or reserve, or two parts hold the same image.

    Raises:
        ConfigError: names the part.
    """
    held = set(manifest.loc[manifest["client"] != NOBODY, "sha256"])
    for part, what in (("vault", "the evaluator's vault"), ("reserve", "the reserve")):
        if held & set(manifest.loc[manifest["part"] == part, "sha256"]):
            raise ConfigError(f"an image of {what} is held by a client; make the split anew")
    parts = manifest.groupby("sha256")["part"].nunique()
    twice = parts[parts > 1]
    if len(twice):
        raise ConfigError(
            f"{len(twice)} images are in more than one part of the split, the first with SHA-256 {twice.index[0]}; "
            "make the split anew"
        )
