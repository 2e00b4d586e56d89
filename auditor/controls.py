"""Every arm's images: what attacks made of targets, and the controls that need no further attack."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from auditor.bench import Bench, beside
from auditor.evidence import Exhibit, read_exhibit
from auditor.targets import ArmTarget
from fedinverse.data.source import unit
from fedinverse.layout import PRIOR_ONLY, RECONSTRUCTIONS
from fedinverse.models import Classifier, for_inference

_CHUNK = 256  # known images shown to a target at once
_KNOWN = {"A": "B4", "B2": "B4W"}  # arm -> of the known images that its target is surest of


@dataclass(frozen=True)
class Inverted:
    """A finished inversion.

    Attributes:
        attack: label of the attack; empty for arm T1, which speaks of every attack.
        target: whose inversion it is.
        weights: the target's file.
        directory: of the files that it left.
    """

    attack: str
    target: ArmTarget
    weights: Path
    directory: Path


def exhibits_of(
    inversions: Iterable[Inverted], bench: Bench, network_of: Callable[[Path], Classifier], classes: tuple[int, ...]
) -> Iterator[Exhibit]:
    """Yield every arm of every attack, one at a time: the inversions, what is made of them, and real images.

    Of an inversion of a captured model (A) come the prior's samples (B0), wrong labels (B5) and the known images that
    the model is surest of (B4); of one without the victim (B2), the known images that *it* is surest of (B4W).

    Args:
        inversions: in the order of the exhibits.
        bench: what the images will be held against.
        network_of: opens the target in a file of weights.
        classes: the victim's.
    """
    inversions, last, device = list(inversions), 0, bench.judge.device

    def surest_of(each: Inverted) -> KnownImages:
        labels = _read(each).labels
        return surest_known(for_inference(network_of(each.weights), device), bench.known, labels, device)

    thread, surest = beside(1), dict[str, Future[KnownImages]]()
    try:  # the known images are shown to the targets while those before them are judged
        for each in inversions:
            if each.target.arm in _KNOWN and each.target.sha256 not in surest:  # several attacks have the same targets
                surest[each.target.sha256] = thread.submit(surest_of, each)
        for each in inversions:
            target, last = each.target, max(last, each.target.round)
            exhibit = _read(each)
            yield exhibit
            if target.arm == "A":
                yield _read(each, PRIOR_ONLY, "B0")
                yield permuted(exhibit)
            if target.arm in _KNOWN:
                yield nearest_known(exhibit, surest[target.sha256].result(), bench.known, _KNOWN[target.arm])
    finally:
        thread.shutdown(cancel_futures=True)
    yield reserve_exhibit(bench, classes, last)


def _read(each: Inverted, name: str = RECONSTRUCTIONS, arm: str = "") -> Exhibit:
    target = each.target
    return read_exhibit(each.directory / name, arm or target.arm, target.world, target.round, each.attack)


def reserve_exhibit(bench: Bench, classes: tuple[int, ...], server_round: int) -> Exhibit:
    """Return the ceiling: real reserve images of ``classes``, judged as if they were reconstructions."""
    rows = torch.isin(bench.reserve.labels, torch.tensor(classes))
    images, labels = unit(bench.reserve.images[rows]), bench.reserve.labels[rows]
    sure, none = torch.ones(len(labels)), torch.zeros(len(labels), dtype=torch.bool)
    return Exhibit("CEIL", "with_victim", server_round, "", images, labels, sure, none)


def permuted(exhibit: Exhibit) -> Exhibit:
    """Return arm B5: the same reconstructions, each labelled with the next of the attacked classes.

    What it scores cannot be there: above chance, the evaluator cannot be trusted.
    """
    classes = torch.unique(exhibit.labels)
    place = torch.searchsorted(classes, exhibit.labels)
    return replace(exhibit, arm="B5", labels=classes[(place + 1) % len(classes)])


@dataclass(frozen=True)
class KnownImages:
    """The known images that a target takes for a class with most certainty.

    Attributes:
        rows: class -> rows of the known images, the surest first; of equally sure ones, the lower row first.
        sure: class -> the target's probability of the class for these rows, descending.
    """

    rows: dict[int, Tensor]
    sure: dict[int, Tensor]


@torch.inference_mode()
def surest_known(target: Classifier, known: Tensor, labels: Tensor, device: str | torch.device = "cpu") -> KnownImages:
    """Return, for every class of ``labels``, as many known images as it has labels, those ``target`` is surest of.

    Memory does not grow with the number of classes times known images: after every chunk the best are kept.

    Args:
        target: ready for inference, on ``device``.
        known: uint8 [M, C, H, W].
        labels: int64 [N].
        device: where the target computes.
    """
    classes, counts = torch.unique(labels, return_counts=True)
    most = min(int(counts.max()), len(known))
    sure = torch.empty(0, len(classes))
    rows = torch.empty(0, len(classes), dtype=torch.int64)
    for start in range(0, len(known), _CHUNK):
        images = unit(known[start : start + _CHUNK], device)
        here = target(images).softmax(1)[:, classes.to(device)].cpu()
        place = torch.arange(start, start + len(here))[:, None].expand(-1, len(classes))
        sure, rows = torch.cat([sure, here]), torch.cat([rows, place])
        order = sure.argsort(stable=True, dim=0, descending=True)[:most]  # earlier rows come first: ties go to them
        sure, rows = sure.gather(0, order), rows.gather(0, order)
    each = {int(label): column for column, label in enumerate(classes)}
    size = {label: min(int(counts[column]), most) for label, column in each.items()}
    return KnownImages(
        {label: rows[: size[label], column] for label, column in each.items()},
        {label: sure[: size[label], column] for label, column in each.items()},
    )


def nearest_known(exhibit: Exhibit, surest: KnownImages, known: Tensor, arm: str = "B4") -> Exhibit:
    """Return arm B4 or B4W: no attack, the images the attacker holds that a target is surest show the class.

    Args:
        exhibit: whose labels and counts are met; where too few images are known, they come again.
        surest: as ``surest_known`` returns it, for the target of the same round.
        known: the public images and the attacker's own, uint8 [M, C, H, W].
        arm: B4 for the model with the victim, B4W for the one without.
    """
    rows, sure = torch.empty(len(exhibit.labels), dtype=torch.int64), torch.empty(len(exhibit.labels))
    for label, best in surest.rows.items():
        mine = exhibit.labels == label
        again = torch.arange(int(mine.sum())) % len(best)
        rows[mine], sure[mine] = best[again], surest.sure[label][again]
    return replace(
        exhibit,
        arm=arm,
        images=unit(known[rows]),
        confidence=sure,
        failed=torch.zeros(len(rows), dtype=torch.bool),
    )
