"""Is it the client, or the class? Read out of the score table for a victim who shares their classes.

The victim's images count as shown if either holds:

nearer    Reconstructions are nearer to their training images than to as many of the same classes at other clients, and
          than to as many that nobody holds; and nearer than the same attack's are without their client. Which image of
          a class went to whom is drawn (only partition ``folders`` takes it from the world), so that without copying
          each is nearer with chance 1/2, whatever the luck of the run: no deviation between runs is added.
copied    Single images of theirs are copied (``auditor.metrics.copies``), in more federations than the rate of false
          discoveries explains, and fewer, if any, by the same attack without their client.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from scipy import special

from auditor.metrics.copies import RATE
from auditor.metrics.names import (
    COPIES,
    COPIES_NOBODY,
    COPIES_OTHERS,
    MEMBER,
    NEARER,
    RESEMBLANCE_NOBODY,
    RESEMBLANCE_OTHERS,
    RESEMBLANCE_VICTIM,
)
from auditor.omitted import Omitted
from auditor.statistics import LEVEL, Cells, Estimate, consistent, estimate, lead_over_half, unless_omitted

CELLS = (
    ("A", NEARER),
    ("B2", NEARER),
    ("A", MEMBER),
    ("A", RESEMBLANCE_VICTIM),
    ("A", RESEMBLANCE_OTHERS),
    ("A", RESEMBLANCE_NOBODY),
    ("A", COPIES),
    ("A", COPIES_OTHERS),
    ("A", COPIES_NOBODY),
    ("B2", COPIES),
)
"""Arms and metrics of the score table that answer the question."""


@dataclass(frozen=True)
class Attribution:
    """What one attack at one round shows of a victim who shares their classes.

    Attributes:
        others: 2 s - 1 of the share s of reconstructions nearer to their images than to as many at other clients; 0: no
            nearer, 1: always theirs.
        nobody: the same against images that nobody holds.
        without: the first figure of the same attack without their client.
        due: whether the first lies above ``without`` in this run.
        resembling: share near enough to an image of the victim's, of others', of nobody's, equally many of each.
        copied: mean number of different images copied, by whose they are.
        copies_shown: whether more federations show copies of theirs than would by chance.
    """

    others: Estimate
    nobody: Estimate | Omitted
    without: Estimate | Omitted
    due: bool
    resembling: dict[str, Estimate | Omitted]
    copied: dict[str, float | Omitted]
    copies_shown: bool

    @property
    def nearer(self) -> bool:
        """Whether the reconstructions are shown to be nearer to their images, and because the victim takes part."""
        beyond = isinstance(self.nobody, Omitted) or self.nobody.above_zero
        return self.others.above_zero and beyond and self.due


def attribute(held: Mapping[tuple[str, str], Cells | Omitted]) -> Attribution | None:
    """Return what the ``CELLS`` of one attack at one round say.

    None where no attacked class is shared, so that the leakage is the victim's anyway.
    """
    nearer, without = held["A", NEARER], held["B2", NEARER]
    if isinstance(nearer, Omitted):
        return None
    like = {"victim": RESEMBLANCE_VICTIM, "others": RESEMBLANCE_OTHERS, "nobody": RESEMBLANCE_NOBODY}
    copied = {
        "victim": held["A", COPIES],
        "others": held["A", COPIES_OTHERS],
        "nobody": held["A", COPIES_NOBODY],
        "victim, without their client": held["B2", COPIES],
    }
    return Attribution(
        lead_over_half(nearer),
        unless_omitted(lead_over_half, held["A", MEMBER]),
        unless_omitted(lead_over_half, without),
        unless_omitted(consistent, nearer, without) is True,
        {whose: unless_omitted(estimate, held["A", metric]) for whose, metric in like.items()},
        {whose: count if isinstance(count, Omitted) else count.mean for whose, count in copied.items()},
        _more_than_chance(held["A", COPIES], held["B2", COPIES]),
    )


def _more_than_chance(copied: Cells | Omitted, without: Cells | Omitted) -> bool:
    """Return whether copies are called in so many seeds that chance, ``RATE`` in each, explains it no longer."""
    if isinstance(copied, Omitted) or isinstance(without, Omitted) or copied.mean <= without.mean:
        return False
    with_copies = int((copied.values > 0).any(1).sum())
    chance = float(special.bdtrc(with_copies - 1, len(copied.seeds), RATE)) if with_copies else 1.0
    return chance <= 1 - LEVEL + 1e-9
