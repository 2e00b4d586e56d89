"""Canaries: records with random labels among the victim's, planted to measure what privacy was really spent.

Of the victim's training images ``count`` are set aside. A fair coin is tossed for each: heads, the victim trains on it
with a random wrong label; tails, nobody ever sees it. Which is which is what an attacker may guess, and what
``auditor.canaries`` guesses. In the split manifest they are of part ``canary``, with the label in the column ``canary``
(-1: no canary); those who lost the toss are at no client.
"""

import numpy as np
import pandas as pd
from pydantic import Field

from fedinverse.config import Population, Section
from fedinverse.errors import ConfigError
from fedinverse.seeds import numpy_generator
from fedinverse.split import NOBODY, held_by

PART, COLUMN = "canary", "canary"
NONE = -1
FEWEST = 10


class Canaries(Section):
    """Records with random labels, half of which the victim trains on."""

    count: int = Field(
        100,
        ge=FEWEST,
        description="images of the victim's that are set aside; about half, drawn with the seed, come back with a "
        "random label. They cost accuracy; 100 cannot show an epsilon above 3.2, 1,000 none above 5.5",
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of the lower bound on epsilon")


def plant(manifest: pd.DataFrame, settings: Canaries, population: Population, classes: int, seed: int) -> pd.DataFrame:
    """Return the split manifest with canaries at the victim.

    Raises:
        ConfigError: too many of them, or images that several clients hold; names the key.
    """
    if population.overlap:
        raise ConfigError(
            "canaries.count and population.overlap exclude each other: a canary must be at the victim alone"
        )
    once = ~manifest["sha256"].duplicated(keep=False).to_numpy(bool)
    able = np.flatnonzero(held_by(manifest, population.victim) & once & (manifest["part"] == "train").to_numpy(bool))
    if 2 * settings.count > len(able):
        raise ConfigError(
            f"canaries.count is {settings.count}, more than half of the {len(able)} different images of the victim, "
            f"client {population.victim}; lower it"
        )
    random = numpy_generator(seed, "canaries")
    places = random.permutation(able)[: settings.count]
    planted = random.integers(2, size=settings.count).astype(bool)
    labels = manifest["label"].to_numpy(np.int64)[places]
    wrong = (labels + 1 + random.integers(classes - 1, size=settings.count)) % classes
    table = manifest.copy()
    columns = {name: table[name].to_numpy().copy() for name in ("part", "client")}
    columns[COLUMN] = np.full(len(table), NONE)
    columns[COLUMN][places] = wrong
    columns["part"][places] = PART
    columns["client"][places[~planted]] = NOBODY
    for name, values in columns.items():
        table[name] = values
    return table
