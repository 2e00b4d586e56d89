"""What an inversion looks like: a picture, and a line of the table a command ends with."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from rich.markup import escape

from attacker.inversion import Inversion
from attacker.target import Target
from fedinverse.layout import PRIOR_ONLY
from pipeline.cli.pictures import save_sheet
from report.text import percent

PICTURE = "reconstructions.png"
HEADER = ["target", "images", "confidence", "prior alone", "Vendi", "failed", "seconds"]


def name_of(target: Target, path: Path) -> str:
    """Return what to call a target on the console: its round, or its file where it has none."""
    return f"round {target.round}" if target.round >= 0 else escape(path.name)


def draw(inversion: Inversion) -> None:
    """Write the picture: a row per class, highest confidence first, as an attacker would look at them."""
    reconstructions = inversion.load()
    rows = []
    for label in reconstructions.labels.unique():
        of_class = (reconstructions.labels == label).nonzero().flatten()
        surest = reconstructions.confidence[of_class].argsort(descending=True, stable=True)
        rows.append(reconstructions.images[of_class[surest]])
    shared = inversion.about.shared_classes
    save_sheet(inversion.path / PICTURE, rows, caption=f"overlap: {', '.join(shared)}" if shared else "")


def overlap_mark(shared: Sequence[str]) -> str:
    """Return what is said of public images that show the classes ``shared``."""
    return f"Overlap: the public images show the classes {', '.join(shared)} too; what came out could be theirs."


def line_of(name: str, inversion: Inversion) -> list[str]:
    """Return the line of ``HEADER`` for an inversion; means are over the reconstructions that did not fail.

    The Vendi score (effective number of different images, on the target's features) is the mean over classes.
    """
    diversity = [measured.vendi for measured in inversion.about.diversity.values()]
    reconstructions, plain = inversion.load(), inversion.load(PRIOR_ONLY)
    kept = reconstructions.confidence[~reconstructions.failed]
    return [
        name,
        str(len(reconstructions.labels)),
        percent(float(kept.mean()) if len(kept) else None),
        percent(float(plain.confidence.mean())),
        f"{mean(diversity):.1f}" if diversity else "–",
        str(int(reconstructions.failed.sum())),
        f"{reconstructions.cost.seconds:.1f}",
    ]
