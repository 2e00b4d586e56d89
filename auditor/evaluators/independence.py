"""What makes a judge of reconstructions independent of those it judges, checked before every use of it.

Published evaluators share the target's architecture, training data and mistakes. Here E1 is another network, trained on
vault images alone, and no image is in two parts of the split: not in the vault and at a client (E1 would know the
target's training images), nor in the reserve and at a client (the ceiling and the member lift compare with images that
nobody trained on).
"""

import pandas as pd

from auditor.settings import Evaluator
from fedinverse.errors import ConfigError
from fedinverse.models import same_network, spec_of
from fedinverse.run import Run
from fedinverse.split import NOBODY


def check_independent(run: Run, settings: Evaluator) -> None:
    """Refuse an evaluator that cannot be independent of the run's target.

    Raises:
        ConfigError: E1 has the target's architecture, another image shape, or its training images meet a client's; or
            an image is in two parts of the split.
    """
    if same_network(settings.model, run.model.name):
        raise ConfigError(
            f"audit.evaluator.model is '{settings.model}', the target's own architecture: it would share its "
            "mistakes; choose another one"
        )
    wanted, given = spec_of(run.model.name).input_shape, spec_of(settings.model).input_shape
    if wanted != given:
        raise ConfigError(f"audit.evaluator.model '{settings.model}' takes images {given}, the target {wanted}")
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
