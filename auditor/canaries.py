"""Canaries: how well can it be told which of them were trained on, and what epsilon is there at least?

One training run shows it (Steinke, Nasr, Jagielski: "Privacy auditing with one (1) training run", NeurIPS 2023): m
canaries, each in the training set by the toss of a fair coin. The r / 2 with the highest scores are guessed to be in,
the r / 2 with the lowest to be out. Were training (epsilon, delta)-DP for each of them, the number of right guesses W
would obey (Theorem 5.2), with f(v) = P[Binomial(r, e^eps / (1 + e^eps)) >= v],

    P[W >= v]  <=  f(v) + 2 m delta max_{1 <= i <= v} (f(v - i) - f(v)) / i.

The bound is the largest epsilon that W refutes. Several r are tried and pay for it (Bonferroni). A lower bound: no
attack that fails shows that a model is private, and r right guesses of r cannot show more than ln(q / (1 - q)) with
q^r = 1 - confidence.

Score: the logit of the canary's random label less the mean of the others but its true class. Exposure (Carlini et al.,
USENIX Security 2019, by rank among canaries that were left out): log2(n + 1) - log2(rank); what was not learned has
1 / ln 2 = 1.44 on average.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import special

from auditor.statistics import UPPER
from auditor.verdict import Interval, Missing
from fedinverse.canaries import COLUMN, NONE, Canaries
from fedinverse.data.source import unit
from fedinverse.errors import StageError
from fedinverse.layout import WITH_VICTIM
from fedinverse.models import Classifier, for_inference
from fedinverse.records import ModelFile, Noise, PrivacySpent, read_model
from fedinverse.run import Run
from fedinverse.split import held_by

DELTA = 1e-5  # where nothing is accounted that names one
MOST = 60.0  # epsilon beyond which nobody asks
SHARES = (1.0, 0.5, 0.25)  # of the canaries that are guessed
CHANCE = 1 / math.log(2)
"""Mean exposure of what was not learned, for many canaries."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def refuted(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Return the most probable that ``right`` or more right guesses can be under (epsilon, delta)-DP, at most 1.

    Args:
        canaries: m, how many coins were tossed.
        guesses: r, for how many a guess was made.
        right: v, how many guesses were right.
        epsilon: of the claim, at least 0.
        delta: of the claim, in [0, 1).
    """
    chance = 1 / (1 + math.exp(-epsilon))
    tail = float(special.bdtrc(right - 1, guesses, chance)) if right else 1.0
    if delta == 0 or right == 0:
        return min(1.0, tail)
    i = np.arange(1, right)
    steepest = max(((special.bdtrc(right - i - 1, guesses, chance) - tail) / i).max(initial=0.0), (1 - tail) / right)
    return min(1.0, tail + 2 * canaries * delta * float(steepest))


def epsilon_bound(canaries: int, guesses: int, right: int, delta: float, confidence: float) -> float:
    """Return the largest epsilon that is refuted at ``confidence``; 0: none is. See ``refuted`` for the others."""
    level = 1 - confidence
    if guesses == 0 or refuted(canaries, guesses, right, 0.0, delta) > level:
        return 0.0
    low, high = 0.0, MOST
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(canaries, guesses, right, middle, delta) <= level else (low, middle)
    return low


@dataclass(frozen=True)
class Guessed:
    """The best of several numbers of guesses.

    Attributes:
        guesses: r.
        right: how many were right.
        epsilon: lower bound, after Bonferroni over the numbers tried.
    """

    guesses: int
    right: int
    epsilon: float


def guess(scores: Floats, planted: Bools, delta: float, confidence: float) -> Guessed:
    """Guess the canaries with the highest and the lowest scores; return the best bound.

    Args:
        scores: float [m], higher for canaries that look trained on.
        planted: bool [m], which were.
        delta: of the claim.
        confidence: of the bound, all numbers of guesses together.
    """
    order = np.argsort(scores, kind="stable")
    halves = sorted({max(1, round(share * len(scores)) // 2) for share in SHARES})
    each = 1 - (1 - confidence) / len(halves)
    tried = []
    for half in halves:
        right = int(planted[order[-half:]].sum() + (~planted[order[:half]]).sum())
        bound = epsilon_bound(len(scores), 2 * half, right, delta, each)
        tried.append(Guessed(2 * half, right, bound))
    return max(tried, key=lambda each: (each.epsilon, each.guesses))


def exposures(scores: Floats, planted: Bools) -> Floats:
    """Return the exposure of every planted canary by its rank among those that were left out, in bits."""
    others = np.sort(scores[~planted])
    above = len(others) - np.searchsorted(others, scores[planted], side="left")
    return np.asarray(np.log2(len(others) + 1) - np.log2(above + 1), np.float64)


@torch.inference_mode()
def scores_of(network: Classifier, images: torch.Tensor, labels: Ints, true: Ints) -> Floats:
    """Return the score of every canary: see the module.

    Args:
        network: the model, ready for inference.
        images: uint8 [m, C, H, W].
        labels: int64 [m], the random ones.
        true: int64 [m], what the images show.
    """
    logits = torch.cat([network(unit(part)) for part in images.split(256)]).double().numpy()
    rows = np.arange(len(logits))
    others = np.ones_like(logits, dtype=bool)
    others[rows, labels] = others[rows, true] = False
    beside = np.where(others, logits, 0.0).sum(1) / np.maximum(others.sum(1), 1)
    return np.asarray(logits[rows, labels] - beside, np.float64)


class Accounted(BaseModel):
    """What an accountant says the victim spent at most.

    Attributes:
        noise: whose: the victim's ``own`` (unit: a record), or the server's, ``central`` (unit: a client's update).
        epsilon: accounted.
        delta: it holds at.
        bound: what the canaries show epsilon to be at least, at the same delta.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    noise: Literal["own", "central"]
    epsilon: float
    delta: float
    bound: float

    @property
    def contradicted(self) -> bool:
        """Whether the bound lies above what is accounted: the accounting, or the mechanism, is wrong."""
        return self.bound > self.epsilon


class CanaryReport(BaseModel):
    """``audit/canaries.json``.

    Attributes:
        version: of this format.
        sha256: of the model that was asked.
        round: of that model.
        count: canaries, planted or left out.
        planted: those the victim trained on.
        confidence: of the bounds.
        delta: that ``epsilon`` holds at.
        guesses: how many guesses gave the best bound.
        right: how many of them were right.
        epsilon: the lower bound; 0: none.
        most: the largest lower bound that so many canaries could have shown.
        exposure: mean over the planted ones, in bits; 1.44 by chance.
        accounted: every account of the victim's, beside the bound.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    sha256: str
    round: int
    count: int
    planted: int
    confidence: float
    delta: float
    guesses: int
    right: int
    epsilon: float
    most: float
    exposure: Interval | Missing
    accounted: tuple[Accounted, ...]

    @property
    def alarm(self) -> bool:
        """Whether anything that is accounted is contradicted."""
        return any(each.contradicted for each in self.accounted)


def read_canaries(path: Path) -> CanaryReport:
    """Read a report.

    Raises:
        IntegrityError: damaged; names the file.
    """
    return read_model(CanaryReport, path, "delete it to have it made again")


def measure(run: Run) -> CanaryReport:
    """Ask the last global model of the federation with the victim about the run's canaries.

    Raises:
        StageError: the run planted none, or its last model is not there.
    """
    manifest = run.split
    if COLUMN not in manifest:
        raise StageError(f"{run.path} has no canaries; add a section [canaries] to its configuration before it is run")
    settings = run.section("canaries", Canaries)
    rounds = run.recorded_rounds(WITH_VICTIM)
    if not rounds:
        raise StageError(f"{run.path} has no model yet; run it first")
    number = rounds[-1].round
    path = run.files.server.checkpoint(WITH_VICTIM, number)
    network = run.network_of(path)
    mine = manifest[manifest[COLUMN] != NONE]
    planted = held_by(mine, run.population.victim)
    labels, true = mine[COLUMN].to_numpy(np.int64), mine["label"].to_numpy(np.int64)
    images = run.pools["private"].tensor(mine["row"].to_numpy(np.int64))
    scores = scores_of(for_inference(network, torch.device("cpu")), images, labels, true)
    spent = _spent(run)
    delta = min((delta for _, delta in spent.values()), default=DELTA)
    best = guess(scores, planted, delta, settings.confidence)
    return CanaryReport(
        sha256=ModelFile.read(path).sha256,
        round=number,
        count=len(mine),
        planted=int(planted.sum()),
        confidence=settings.confidence,
        delta=delta,
        guesses=best.guesses,
        right=best.right,
        epsilon=best.epsilon,
        most=guess(planted.astype(np.float64), planted, delta, settings.confidence).epsilon,
        exposure=_mean_exposure(scores, planted),
        accounted=tuple(
            Accounted(
                noise=noise,
                epsilon=epsilon,
                delta=delta_of_account,
                bound=guess(scores, planted, delta_of_account, settings.confidence).epsilon,
            )
            for noise, (epsilon, delta_of_account) in spent.items()
        ),
    )


def _spent(run: Run) -> dict[Noise, tuple[float, float]]:
    """Return whose noise -> (epsilon, delta) of the victim; an infinite epsilon is none."""
    accounts = PrivacySpent.read_all(run.files.server.privacy(WITH_VICTIM))
    spent = accounts.get(run.population.victim, PrivacySpent()).spent
    return {noise: account for noise, account in spent.items() if math.isfinite(account[0])}


def _mean_exposure(scores: Floats, planted: Bools) -> Interval | Missing:
    if planted.sum() < 2 or planted.all():
        return Missing(omitted="the coins left no two kinds of canaries")
    bits = exposures(scores, planted)
    mean, error = float(bits.mean()), float(bits.std(ddof=1)) / math.sqrt(len(bits))
    half = float(special.stdtrit(len(bits) - 1, UPPER)) * error
    return Interval(value=mean, low=mean - half, high=mean + half, marks=())
