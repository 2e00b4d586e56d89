"""What people's answers say: of themselves, of the reconstructions, and of the evaluators.

A share over several judges is the mean over items of the share of judges, and Wilson's interval counts items, not
answers: two people who look at one image are not two images. "Cannot tell" is never right and never "yes".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from auditor.omitted import Omitted
from auditor.people.agreement import MISSING, cohens_kappa, interval, krippendorffs_alpha
from auditor.people.answers import ANSWERS, Answers
from auditor.people.sheet import KINDS, MADE, Item, Key, Kind
from auditor.statistics import Bounded, newcombe, wilson
from fedinverse.seeds import derive, numpy_generator
from fedinverse.storage import read_json, typed

YES, NO, UNSURE = range(len(ANSWERS))
RIGHT: dict[Kind, int] = {"true-positive": YES, "wrong-class": NO}
Table = NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """A share of items with its 95 % interval (Wilson), all in [0, 1]."""

    value: float
    low: float
    high: float
    items: int


@dataclass(frozen=True)
class Agreement:
    """Agreement of the judges beyond chance.

    Attributes:
        measure: its name.
        value: 1: always; 0: as chance.
        low: of the 95 % interval over items.
        high: likewise.
    """

    measure: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class KindReading:
    """Answers to the items of one kind: shares of "yes", "no" and "cannot tell"."""

    kind: Kind
    yes: Share
    no: Share
    unsure: Share


@dataclass(frozen=True)
class Reading:
    """What the answers of one or several judges say.

    Attributes:
        judges: name -> number of items answered.
        items: on the page.
        kinds: of every kind that was answered.
        accuracy: share of right answers to true positives and wrong classes, both kinds weighing the same.
        by_judge: the same of every judge alone.
        lead: "yes" to reconstructions minus "yes" to the control world's: people's own leakage.
        lead_of_prior: the same, minus "yes" to the prior's samples.
        false_positives: reading -> share of made images (no photograph of anything) that most people deny, in which the
            evaluators see the class all the same; ``closed``: E1, ``open``: both that may say "none of these".
        missed: reading -> share of made images in which most people see the class and the evaluators do not.
        agreement: of the judges; why there is none.
    """

    judges: dict[str, int]
    items: int
    kinds: tuple[KindReading, ...]
    accuracy: Share | Omitted
    by_judge: dict[str, Share | Omitted]
    lead: Bounded | Omitted
    lead_of_prior: Bounded | Omitted
    false_positives: dict[str, Share | Omitted]
    missed: dict[str, Share | Omitted]
    agreement: Agreement | Omitted


@dataclass(frozen=True)
class PeopleReport:
    """``people.json``: what is said, and of which images.

    Attributes:
        sheet: name of the page that was answered.
        attack: label of the attack that was judged.
        round: of the models that were inverted.
        inversion: directory of the reconstructions, as in the key.
        notes: what the page lacks, and why.
        reading: what the answers say.
    """

    sheet: str
    attack: str
    round: int
    inversion: str
    notes: tuple[str, ...]
    reading: Reading


def read_people(path: Path) -> PeopleReport:
    """Read ``people.json``.

    Raises:
        IntegrityError: it was altered; names the key.
    """
    return typed(PeopleReport, read_json(path), path)


def read(key: Key, judges: Mapping[str, Answers], seed: int = 0) -> Reading:
    """Return what ``judges`` say of the items of ``key``; ``seed``: of the bootstrap."""
    table = _table(key, judges)
    kinds = {kind: _of_kind(key, table, kind) for kind in KINDS}
    yes = {kind: each.yes for kind, each in kinds.items() if each}
    return Reading(
        {name: len(each.answers) for name, each in judges.items()},
        len(key.items),
        tuple(each for each in kinds.values() if each),
        _accuracy(key, table),
        {name: _accuracy(key, row[None]) for name, row in zip(judges, table, strict=True)},
        _lead(yes, "control-world"),
        _lead(yes, "prior-only"),
        {name: _against(key, table, NO, said, True) for name, said in _EVALUATORS.items()},
        {name: _against(key, table, YES, said, False) for name, said in _EVALUATORS.items()},
        _agreement(table, seed),
    )


_EVALUATORS: dict[str, Callable[[Item], bool]] = {"closed": lambda item: item.evaluator, "open": lambda item: item.open}


def _table(key: Key, judges: Mapping[str, Answers]) -> Table:
    """Return the answers as int64 [J, N]: index into ``ANSWERS``, or -1."""
    place = {item.id: number for number, item in enumerate(key.items)}
    table = np.full((len(judges), len(key.items)), MISSING, np.int64)
    for row, each in zip(table, judges.values(), strict=True):
        for given in each.answers:
            row[place[given.item]] = ANSWERS.index(given.answer)
    return table


def _share(table: Table, answer: int) -> Share | Omitted:
    """Return the mean over items [J, N] of the share of judges who gave ``answer``, of those who answered."""
    answered = (table != MISSING).sum(0)
    shares = (table == answer).sum(0)[answered > 0] / answered[answered > 0]
    if not len(shares):
        return Omitted("nobody answered")
    total = float(shares.sum())
    return Share(total / len(shares), *wilson(min(total, len(shares)), len(shares)), len(shares))


def _of_kind(key: Key, table: Table, kind: Kind) -> KindReading | None:
    mine = table[:, [item.kind == kind for item in key.items]]
    three = [_share(mine, answer) for answer in (YES, NO, UNSURE)]
    shares = [each for each in three if isinstance(each, Share)]
    return KindReading(kind, *shares) if len(shares) == len(three) else None


def _accuracy(key: Key, table: Table) -> Share | Omitted:
    """Return balanced accuracy; its interval is that of half the sum of two independent shares."""
    parts = [_share(table[:, [item.kind == kind for item in key.items]], right) for kind, right in RIGHT.items()]
    shares = [each for each in parts if isinstance(each, Share)]
    if len(shares) < len(parts):
        return Omitted("nobody answered both true positives and wrong classes")
    one, other = shares
    value = (one.value + other.value) / 2
    down = float(np.hypot(one.value - one.low, other.value - other.low)) / 2
    up = float(np.hypot(one.high - one.value, other.high - other.value)) / 2
    return Share(value, value - down, value + up, one.items + other.items)


def _lead(yes: Mapping[Kind, Share], control: Kind) -> Bounded | Omitted:
    if "reconstruction" not in yes or control not in yes:
        return Omitted(f"nobody answered both reconstructions and {control} images")
    return newcombe(yes["reconstruction"], yes[control])


def _against(key: Key, table: Table, people: int, said: Callable[[Item], bool], seen: bool) -> Share | Omitted:
    """Return how often an evaluator contradicts people on images that were made, not photographed.

    Of the images to which most judges answered ``people``, the share of which the evaluator says ``seen`` or not.
    """
    sure = 2 * (table == people).sum(0) > (table != MISSING).sum(0)
    chosen = [item for item, is_sure in zip(key.items, sure, strict=True) if is_sure and item.kind in MADE.values()]
    if not chosen:
        return Omitted(f"of the images that were made there is none to which most people said '{ANSWERS[people]}'")
    count = sum(said(item) is seen for item in chosen)
    return Share(count / len(chosen), *wilson(count, len(chosen)), len(chosen))


def _agreement(table: Table, seed: int) -> Agreement | Omitted:
    if len(table) < 2:
        return Omitted("one judge agrees with nobody; have a second one answer")
    name, measure = (
        ("Cohen's kappa", cohens_kappa) if len(table) == 2 else ("Krippendorff's alpha", krippendorffs_alpha)
    )
    value = measure(table, len(ANSWERS))
    if isinstance(value, Omitted):
        return value
    bounds = interval(measure, table, len(ANSWERS), numpy_generator(derive(seed, "people", "agreement")))
    return bounds if isinstance(bounds, Omitted) else Agreement(name, value, *bounds)
