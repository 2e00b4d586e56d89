"""What was in somebody's last batches? The auditor's half: how near reconstructions come to the images of that round.

Every reconstruction of a class of the victim is matched to one of their training images of that class (Hungarian method
on the squared error), and scored by PSNR, SSIM and the distance in E2. Two controls get the same labels, budget and
matching: the same attack on the world without the victim, and random images of the class that nobody trained on.
Counted are cells, one per round and class; the interval of a lead over a control is Student's over cells.

| outcome | when |
|---|---|
| yes | the lead in PSNR over both controls is shown to be above 0, and 1 dB or more |
| no | the interval of a lead ends below 1 dB, or the attack found no class of the victim |
| inconclusive | everything else: the victim did not train, a control is missing, fewer than 3 cells |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import t as student
from torch import Tensor

from auditor.evaluators.embedding import Embedding, embedding_of
from auditor.questions import Answer, Reply, question_of
from auditor.statistics import LEVEL
from fedinverse.data.source import unit
from fedinverse.errors import IntegrityError
from fedinverse.layout import WITH_VICTIM
from fedinverse.private import part_of
from fedinverse.records import LedgerLine, read_lines
from fedinverse.run import Run
from fedinverse.seeds import generator
from fedinverse.shard import Shard
from fedinverse.split import holdings
from fedinverse.storage import load_weights

VERSION = 1  # of the figures; raise it when one of them changes
RESOLUTION = 1.0  # dB: the smallest lead that matters
FEWEST_CELLS = 3
ATTACK, WITHOUT, RANDOM = "attack", "the world without the victim", "random images of the class"
ARMS = (ATTACK, WITHOUT, RANDOM)
METRICS = ("psnr", "ssim", "distance")
QUESTION = question_of("updates")


@dataclass(frozen=True)
class UpdateExhibit:
    """The reconstructions of one update.

    Attributes:
        arm: ``ATTACK``, or ``WITHOUT``.
        round: between whose models the update lies.
        images: float32 [N, C, H, W] in [0, 1].
        labels: int64 [N].
        shares: float64 [K], share of every class in the update, as the attacker found it.
    """

    arm: str
    round: int
    images: Tensor
    labels: Tensor
    shares: Tensor


def read_update(path: Path, arm: str, server_round: int) -> UpdateExhibit:
    """Read what the attacker made; ``IntegrityError`` names a file that lacks an array."""
    arrays, _ = load_weights(path)
    try:
        images, labels, shares = (torch.from_numpy(arrays[name]) for name in ("images", "labels", "shares"))
    except KeyError as error:
        raise IntegrityError(f"{path}: holds no array {error}; it is no inverted update") from error
    return UpdateExhibit(arm, server_round, images, labels, shares)


@dataclass(frozen=True)
class Matched:
    """Reconstructions beside the private image that each was matched to.

    Attributes:
        labels: int64 [N].
        reconstructed: float32 [N, C, H, W], the reconstructions.
        real: float32 [N, C, H, W], the private images.
        psnr: dB, float64 [N]; ``ssim`` in [-1, 1]; ``distance`` in E2, [0, 2].
    """

    labels: Tensor
    reconstructed: Tensor
    real: Tensor
    psnr: NDArray[np.float64]
    ssim: NDArray[np.float64]
    distance: NDArray[np.float64]


Cells = Mapping[str, Mapping[tuple[int, int], Matched]]
"""By arm, and by round and class."""


def matched(images: Tensor, labels: Tensor, private: Shard, embedding: Embedding) -> Matched:
    """Match ``images`` of each class to private images of it, every one to another, as far as there are so many."""
    order, partner = [], []
    for label in labels.unique().tolist():
        mine = (labels == label).nonzero().flatten()
        theirs = (private.labels == label).nonzero().flatten()
        error = torch.cdist(images[mine].flatten(1).double(), unit(private.images[theirs]).flatten(1).double()).square()
        rows, columns = linear_sum_assignment(error.numpy())
        order.append(mine[rows])
        partner.append(theirs[columns])
    chosen, real = torch.cat(order), unit(private.images[torch.cat(partner)])
    reconstructed = images[chosen]
    squared = (reconstructed - real).square().flatten(1).mean(1).double().clamp_min(1e-10)
    from torchmetrics.functional.image import structural_similarity_index_measure  # takes two seconds to import

    similarity = structural_similarity_index_measure(reconstructed, real, data_range=1.0, reduction="none")
    assert isinstance(similarity, Tensor)
    apart = (embedding(reconstructed) - embedding(real)).norm(dim=1)
    return Matched(
        labels[chosen],
        reconstructed,
        real,
        (-10 * squared.log10()).numpy(),
        similarity.double().reshape(-1).numpy(),
        apart.double().numpy(),
    )


@dataclass(frozen=True)
class Lead:
    """How much higher the attack's PSNR is than a control's, in dB, with its 95 % interval."""

    value: float
    low: float
    high: float


def lead(attack: Sequence[float], control: Sequence[float]) -> Lead:
    """Return the mean difference over cells with Student's interval; of fewer than 3 cells it is unbounded."""
    apart = np.array(attack) - np.array(control)
    if len(apart) < FEWEST_CELLS:
        return Lead(float(apart.mean()), -np.inf, np.inf)
    half = float(student.ppf((1 + LEVEL) / 2, len(apart) - 1)) * float(apart.std(ddof=1)) / np.sqrt(len(apart))
    return Lead(float(apart.mean()), float(apart.mean()) - half, float(apart.mean()) + half)


def trained_in(run: Run, server_round: int) -> set[int]:
    """Return the clients that were asked to train in a round, malicious ones left out."""
    ledger = read_lines(LedgerLine, run.files.server.ledger(WITH_VICTIM))
    asked = {line.partition for line in ledger if line.round == server_round and line.message_type == "train"}
    return {client for client in asked if client is not None} - set(run.population.attackers)


def true_shares(run: Run, server_round: int) -> Tensor:
    """Return the share of every class among the images of those who trained, float64 [K]."""
    counts = holdings(run.split, run.population.clients, len(run.class_names))[sorted(trained_in(run, server_round))]
    total = torch.from_numpy(counts.sum(0)).double()
    return total / total.sum()


def compared(run: Run, exhibits: Sequence[UpdateExhibit]) -> Cells:
    """Return by arm and (round, class) how near each comes to the victim's images; leaves out rounds without them."""
    victim, reserve = part_of(run, "train", victim_only=True), part_of(run, "reserve")
    embedding = embedding_of(run)
    cells: dict[str, dict[tuple[int, int], Matched]] = {arm: {} for arm in ARMS}
    for each in exhibits:
        if run.population.victim not in trained_in(run, each.round):
            continue
        for label in sorted(set(each.labels.tolist()) & set(victim.labels.tolist())):
            mine = each.labels == label
            cells[each.arm][each.round, label] = matched(each.images[mine], each.labels[mine], victim, embedding)
            if each.arm == ATTACK:
                pool = reserve.images[reserve.labels == label]
                random = generator(run.seed, "random images of a class", each.round, label)
                drawn = unit(pool[torch.randint(len(pool), (int(mine.sum()),), generator=random)])
                cells[RANDOM][each.round, label] = matched(drawn, each.labels[mine], victim, embedding)
    return cells


def figures_of(cells: Cells) -> dict[str, float | None]:
    """Return the mean over cells of every metric and arm, and the leads."""
    figures: dict[str, float | None] = {}
    for metric in METRICS:
        for arm in ARMS:
            values = [float(getattr(cell, metric).mean()) for cell in cells[arm].values()]
            figures[f"{metric}, {arm}"] = round(float(np.mean(values)), 4) if values else None
    return figures


def answer_to(run: Run, exhibits: Sequence[UpdateExhibit], cells: Cells, marks: Sequence[str], inputs: str) -> Answer:
    """Return the answer, with its figures.

    Args:
        run: whose private images the reconstructions are held against.
        exhibits: the attack's, and the same of the world without the victim where there is one.
        cells: what ``compared`` makes of them.
        marks: of the question and of the attack.
        inputs: hash of what the answer follows from.
    """
    attack = [each for each in exhibits if each.arm == ATTACK]
    rounds = sorted({each.round for each in attack})
    figures: dict[str, float | None] = {"rounds": len(rounds), "cells": len(cells[ATTACK]), **figures_of(cells)}
    errors = [(each.shares - true_shares(run, each.round)).abs().sum() / 2 for each in attack]
    equal = [(1 / len(each.shares) - true_shares(run, each.round)).abs().sum() / 2 for each in attack]
    figures |= {
        "label error": round(float(torch.stack(errors).mean()), 4),
        "label error of equal shares": round(float(torch.stack(equal).mean()), 4),
    }
    leads = _leads(cells)
    for arm, lead in leads.items():
        bounded = np.isfinite(lead.low)
        figures |= {
            f"lead over {arm}": round(lead.value, 4),
            f"lead over {arm}, low": round(lead.low, 4) if bounded else None,
            f"lead over {arm}, high": round(lead.high, 4) if bounded else None,
        }
    outcome, sentence = _decided(run, attack, leads)
    return QUESTION.answered(outcome, sentence, figures, marks, inputs)


def _leads(cells: Cells) -> dict[str, Lead]:
    leads = {}
    for arm in (WITHOUT, RANDOM):
        shared = sorted(cells[ATTACK].keys() & cells[arm].keys())
        if shared:
            first, second = ([float(cells[which][at].psnr.mean()) for at in shared] for which in (ATTACK, arm))
            leads[arm] = lead(first, second)
    return leads


def _decided(run: Run, attack: Sequence[UpdateExhibit], leads: Mapping[str, Lead]) -> tuple[Reply, str]:
    seen = [each for each in attack if run.population.victim in trained_in(run, each.round)]
    rounds = ", ".join(str(each.round) for each in attack)
    if not seen:
        return "inconclusive", (
            f"the victim did not train in the inverted rounds ({rounds}); list others in updates.rounds, or 'every'."
        )
    if RANDOM not in leads:
        return "no", f"The labels found in the update of round {rounds} hold no class of the victim."
    if WITHOUT not in leads:
        return "inconclusive", (
            "Whether the victim's images are the reason only a federation without them can say "
            "(audit.without_victim = true)."
        )
    said = "; ".join(f"{_in_words(lead)} over {arm}" for arm, lead in leads.items())
    if any(lead.high < RESOLUTION for lead in leads.values()):
        return "no", f"Images from the update of round {rounds} come no nearer to the victim's than a control: {said}."
    if all(lead.low > 0 and lead.value >= RESOLUTION for lead in leads.values()):
        return (
            "yes",
            f"Images from the update of round {rounds} come nearer to the victim's than both controls: {said}.",
        )
    return "inconclusive", f"Images from the update of round {rounds} are not told from the controls: {said}."


def _in_words(lead: Lead) -> str:
    if not np.isfinite(lead.low):
        return f"{lead.value:+.1f} dB, of fewer than {FEWEST_CELLS} rounds and classes,"
    return f"{lead.value:+.1f} dB [{lead.low:+.1f}, {lead.high:+.1f}]"
