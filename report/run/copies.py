"""Training images that were given back, as pictures: reconstruction, training image, nearest reserve image."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from auditor.metrics.copies import RATE, Copies
from auditor.omitted import Omitted
from report.run.gallery import encoded
from report.text import counted, share

MOST = 24  # pairs that a page shows: the surest
KINDS = {
    "made": ("reconstruction", "Reconstruction of class {}"),
    "train": ("training", "Training image of the victim's that the reconstruction of class {} copies"),
    "reserve": ("reserve", "Image that nobody trained on, nearest to the reconstruction of class {}"),
}


@dataclass(frozen=True)
class Copied:
    """One reconstruction that is called a copy.

    Attributes:
        images: kind (see ``KINDS``) -> uint8 [C, H, W].
        distance: kind -> E2 distance to the reconstruction.
        corrected: p, corrected for the number of reconstructions.
    """

    name: str
    images: dict[str, Tensor]
    distance: dict[str, float]
    corrected: float


@dataclass(frozen=True)
class CopiesShown:
    """What the page shows of copies.

    Attributes:
        sentence: how many there are, or why that is unknown.
        pairs: (class, pictures as in ``report.run.gallery.Cell``, remark), the surest first.
    """

    sentence: str
    pairs: list[tuple[str, list[tuple[str, str, str, str]], str]]


def copies_shown(outcome: Copies | Omitted, pairs: Sequence[Copied], attack: str) -> CopiesShown:
    """Return the sentence and the pictures.

    Args:
        outcome: of all sound reconstructions of ``attack`` at the round shown.
        pairs: those called copies, the surest first.
    """
    if isinstance(outcome, Omitted):
        return CopiesShown(f"Whether single training images were copied is unknown: {outcome.reason}.", [])
    number = len(outcome.called)
    if not pairs:
        return CopiesShown(
            f"None of {counted(number, 'reconstruction')} of attack “{attack}” is nearer to a training image of the "
            f"victim's than chance explains (at {share(RATE)} false discoveries).",
            [],
        )
    more = f" The {MOST} surest are shown." if len(pairs) > MOST else ""
    sentence = (
        f"{counted(outcome.originals, 'training image')} of the victim's "
        f"{'is' if outcome.originals == 1 else 'are'} copied by {len(pairs)} of {counted(number, 'reconstruction')} of "
        f"attack “{attack}”; of these {outcome.expected_false:.2g} are expected to be no copies.{more}"
    )
    uris, _ = encoded(pairs[:MOST])
    return CopiesShown(sentence, [_pictured(pair, uri) for pair, uri in zip(pairs, uris, strict=False)])


def _pictured(pair: Copied, uris: dict[str, str]) -> tuple[str, list[tuple[str, str, str, str]], str]:
    pictures = [
        (caption, alternative.format(pair.name), uris[kind], f"{pair.distance[kind]:.2f}" if kind != "made" else "")
        for kind, (caption, alternative) in KINDS.items()
    ]
    return pair.name, pictures, f"corrected p {pair.corrected:.1g}"
