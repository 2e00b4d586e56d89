"""Was this record used for training? The auditor's half: which records are asked about, and how well a score answers.

Members are images that the victim trained on, non-members as many images of the same classes that no client held. Only
the auditor knows which is which; whoever scores them gets images and labels alone. Two controls stand beside every
score: the world without the victim, whose models were trained on neither kind, and memberships dealt at random.
"""

import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from auditor.metrics.roc import Bools, Floats, RocSummary, permuted_area, roc, told_apart
from auditor.omitted import Omitted
from auditor.questions import Answer, Reply, question_of
from auditor.statistics import Bounded
from auditor.verdict import Interval, Missing
from fedinverse.canaries import PART as CANARY
from fedinverse.errors import ConfigError
from fedinverse.records import read_model
from fedinverse.run import Run
from fedinverse.seeds import numpy_generator
from fedinverse.shard import Shard
from fedinverse.split import held_by

FEWEST = 20  # members below which a bootstrap over candidates says too little
CURVE_POINTS = 200  # of a stored ROC curve: what a picture shows
HALF = 0.5
LEVEL = 0.05

ONE_MODEL = "the interval is over candidates of this one federation, and says nothing of another"


@dataclass(frozen=True)
class Candidates:
    """The records that are asked about, members and non-members mixed.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        member: bool [N].
        rows: int64 [N], of the private source; -1: not of one.
        notes: what was left out, and why.
    """

    images: Tensor
    labels: Tensor
    member: Bools
    rows: np.ndarray[tuple[int], np.dtype[np.int64]]
    notes: tuple[str, ...] = ()


def candidates_of(run: Run, per_class: int, *, with_vault: bool) -> Candidates:
    """Return as many members as non-members of each class of the victim, in a random order.

    Pictures that the attacker holds itself are left out. No picture is a member and a non-member at once: the split
    keeps equal bytes together.

    Args:
        run: whose victim is asked about.
        per_class: most members of a class; 0: all.
        with_vault: non-members come from the vault as well: no client held those images either.

    Raises:
        ConfigError: too few are left; says how many.
    """
    manifest, population = run.split, run.population
    of_class = manifest["label"].isin(run.victim_classes).to_numpy(bool)
    at_victim = held_by(manifest, population.victim) & of_class & (manifest["part"] != CANARY).to_numpy(bool)
    outside = manifest["part"].isin(["reserve", "vault"] if with_vault else ["reserve"]).to_numpy(bool) & of_class
    held = np.zeros(len(manifest), bool)
    for attacker in population.attackers:
        held |= held_by(manifest, attacker)
    known = held & (at_victim | outside)
    notes = (f"{int(known.sum())} candidates were left out: the attacker holds them itself",) if known.any() else ()
    chosen: list[tuple[int, bool]] = []
    labels = manifest["label"].to_numpy(np.int64)
    random = numpy_generator(run.seed, "membership candidates")
    for label in run.victim_classes:
        kinds = [np.flatnonzero(kind & ~held & (labels == label)) for kind in (at_victim, outside)]
        count = min(len(kinds[0]), len(kinds[1]), per_class or len(labels))
        for rows, is_member in zip(kinds, (True, False), strict=True):
            chosen += [(int(row), is_member) for row in random.permutation(rows)[:count]]
    members = sum(is_member for _, is_member in chosen)
    if members < FEWEST:
        raise ConfigError(
            f"membership: {members} members and as many non-members of the victim's classes can be asked about, at "
            f"least {FEWEST} are needed; give the victim more images, split.reserve a larger share, or set "
            "membership.with_vault"
        )
    order = random.permutation(len(chosen))
    places = np.array([chosen[place][0] for place in order], np.int64)
    member = np.array([chosen[place][1] for place in order], bool)
    rows = manifest["row"].to_numpy(np.int64)[places]
    return Candidates(run.pools["private"].tensor(rows), torch.from_numpy(labels[places].copy()), member, rows, notes)


def candidates_between(members: Shard, others: Shard, attackers: Shard, seed: int) -> Candidates:
    """Return as many images of ``others`` as of ``members`` of each class, in a random order.

    Args:
        members: images that were trained on.
        others: images that nobody trained on.
        attackers: the attacker's.
        seed: of the choice and the order.

    Raises:
        ConfigError: a picture is in two of them, their shapes differ, or too few classes are common.
    """
    if members.images.shape[1:] != others.images.shape[1:]:
        raise ConfigError(f"members are {tuple(members.images.shape[1:])}, others {tuple(others.images.shape[1:])}")
    digests = [_digests(each) for each in (members, others, attackers)]
    named = dict(zip(("members", "others", "the attacker's own images"), digests, strict=True))
    for (first, one), (second, two) in itertools.combinations(named.items(), 2):
        shared = len(one & two)
        if shared:
            raise ConfigError(
                f"{first} and {second} share {shared} pictures, of which nothing can be told: take them out of one"
            )
    random = numpy_generator(seed, "membership candidates")
    rows: list[list[int]] = [[], []]
    for label in sorted(set(members.labels.tolist()) & set(others.labels.tolist())):
        kinds = [np.flatnonzero(each.labels.numpy() == label) for each in (members, others)]
        for place, kind in enumerate(kinds):
            rows[place] += random.permutation(kind)[: min(map(len, kinds))].tolist()
    count = len(rows[0])
    if count < FEWEST:
        raise ConfigError(f"{count} members and as many others of common classes; at least {FEWEST} are needed")
    order = random.permutation(2 * count)
    images = torch.cat([members.images[rows[0]], others.images[rows[1]]])[order]
    labels = torch.cat([members.labels[rows[0]], others.labels[rows[1]]])[order]
    return Candidates(images, labels, (np.arange(2 * count) < count)[order], np.full(2 * count, -1, np.int64))


def _digests(shard: Shard) -> set[bytes]:
    return {hashlib.sha256(image.tobytes()).digest() for image in shard.images.numpy()}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ScoreReport(_Part):
    """What one score says of the candidates."""

    score: str
    by_attacker: bool = Field(description="whether a participant can compute it; otherwise it is an upper bound")
    auc: Interval
    true_positive_rates: dict[str, Interval | Missing] = Field(description="by false-positive rate")
    balanced_accuracy: Interval = Field(description="each half of the candidates, judged by the other's best threshold")
    control: Interval | Missing = Field(description="area on the world without the victim; must cover .5")
    permuted: Interval = Field(description="area with memberships dealt at random: mean and 95 % of the draws")
    p: float = Field(description="share of those draws with an area at least as large")
    curve: tuple[tuple[float, float], ...] = Field(description="(false-, true-positive rate), for the picture")


class MembershipReport(_Part):
    """``audit/membership.json``."""

    primary: str = Field(description="the score that was chosen before the run")
    resolution: float = Field(description="smallest area above .5 that matters")
    rounds: tuple[int, ...] = Field(description="of the captured models")
    members: int
    others: int
    scores: tuple[ScoreReport, ...]
    omitted: dict[str, str] = Field(description="score: why it could not be had")
    notes: tuple[str, ...] = ()
    inputs: str = Field("", description="hash of what it follows from")


def judged(
    name: str, scores: Floats, member: Bools, control: Floats | str, seed: int, *, by_attacker: bool = True
) -> ScoreReport:
    """Return what ``scores`` [N] say of membership.

    Args:
        name: of the score.
        scores: higher for members.
        member: bool [N].
        control: the same score on the world without the victim, [N], or why there is none.
        seed: of bootstrap and permutations.
        by_attacker: whether a participant can compute it.
    """
    summary = told_apart(scores, member, numpy_generator(seed, "membership", name))
    permuted, p = permuted_area(scores, member, numpy_generator(seed, "membership permuted", name))
    if isinstance(control, str):
        beside: Interval | Missing = Missing(omitted=control)
    else:
        beside = _interval(told_apart(control, member, numpy_generator(seed, "membership control", name)).auc)
    return ScoreReport(
        score=name,
        by_attacker=by_attacker,
        auc=_interval(summary.auc),
        true_positive_rates=_rates(summary),
        balanced_accuracy=_interval(summary.balanced),
        control=beside,
        permuted=_interval(permuted),
        p=p,
        curve=_thinned(scores, member),
    )


def read_report(path: Path) -> MembershipReport:
    """Read ``audit/membership.json``; ``IntegrityError`` names the file and the key that does not fit."""
    return read_model(MembershipReport, path, "delete it and ask again")


def answer_to(report: MembershipReport, marks: tuple[str, ...] = ()) -> Answer:
    """Return the answer that ``report`` gives, by the score that was chosen before the run."""
    question = question_of("membership")
    line = next((each for each in report.scores if each.score == report.primary), None)
    figures: dict[str, float | None] = {"members": report.members, "non-members": report.others}
    if line is None:
        why = report.omitted.get(report.primary, "it was not computed")
        outcome: Reply = "inconclusive"
        sentence = f"The score '{report.primary}' could not be had: {why}."
    else:
        outcome, sentence = _outcome(line, report.resolution)
        figures |= {"auc": line.auc.value, "auc-low": line.auc.low, "auc-high": line.auc.high, "p": line.p}
        figures["control-auc"] = line.control.value if isinstance(line.control, Interval) else None
        for rate, figure in line.true_positive_rates.items():
            figures[f"tpr-at-{rate}"] = figure.value if isinstance(figure, Interval) else None
    return question.answered(outcome, sentence, figures, (*marks, ONE_MODEL, *report.notes), report.inputs)


def _outcome(line: ScoreReport, resolution: float) -> tuple[Reply, str]:
    area, control = line.auc, line.control
    figures = f"area {_shown(area)} by the score '{line.score}'"
    if isinstance(control, Missing):
        return "inconclusive", f"There is no control: {control.omitted}; {figures}."
    figures += f", without the victim {_shown(control)}"
    if not control.low <= HALF <= control.high:
        why = "The candidates are told apart even without the victim, so they differ by themselves"
        return "inconclusive", f"{why}: {figures}."
    if area.low > HALF and line.p <= LEVEL:
        if area.value >= HALF + resolution:
            return "yes", f"Members are told from non-members: {figures}."
        return "in part", f"Members are told from non-members, by less than the {resolution:g} that matters: {figures}."
    if area.high < HALF + resolution:
        return "no", f"Members are not told from non-members: {figures}."
    return "inconclusive", f"Neither shown nor excluded: {figures}; more candidates would narrow it."


def _shown(area: Interval) -> str:
    return f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]"


def _interval(figure: Bounded) -> Interval:
    return Interval(value=figure.value, low=figure.low, high=figure.high, marks=())


def _rates(summary: RocSummary) -> dict[str, Interval | Missing]:
    return {
        f"{rate:g}": Missing(omitted=value.reason) if isinstance(value, Omitted) else _interval(value)
        for rate, value in summary.rates.items()
    }


def _thinned(scores: Floats, member: Bools) -> tuple[tuple[float, float], ...]:
    """Return at most ``CURVE_POINTS`` points of the curve, denser at the few false positives that a log scale shows."""
    curve = roc(scores, member)
    places = np.unique(np.geomspace(1, len(curve.false), CURVE_POINTS).round().astype(int) - 1)
    return tuple((float(curve.false[place]), float(curve.true[place])) for place in places)
