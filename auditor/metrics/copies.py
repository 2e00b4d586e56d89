"""Which training images were given back: copies, found at a fixed rate of false discoveries.

Every reconstruction has a distance d to the nearest training image of the victim's, in the task-free embedding. How
small d becomes without copying is known from real reserve images, which are of the same classes and in nobody's
training set: their own distances to the nearest training image are the null sample. A sample of R images alone gives
no p-value below 1 / R; its lower tail is therefore extended by an exponential law fitted to the n distances below the
TAIL quantile u (peaks over threshold, Pickands 1975), the uncertainty of its one parameter included:

    p(d) = (n / R) (1 + (u - d) / (n m))^-n,  m the mean of u - D over those n

Distances cannot fall below 0, so that their true tail is shorter than exponential: the law errs against calling an
image a copy. (A generalised Pareto law with its shape fitted to so few points erred the other way.)

Benjamini and Hochberg (1995) then choose the reconstructions that are called copies, so that at most the share ``RATE``
of them is expected to be called so wrongly.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.metrics.distances import Nearest
from auditor.omitted import Omitted

RATE = 0.05  # share of false ones expected among what is called a copy
TAIL = 0.1  # share of the null sample that the tail is fitted to
FEWEST = 50  # null distances below which no tail is fitted


@dataclass(frozen=True)
class Copies:
    """Reconstructions that are nearer to a training image than chance allows.

    Attributes:
        called: bool [N], which are called copies.
        original: int64 [N], row of the nearest training image; -1 where there is none.
        distance: float64 [N], to it.
        p: float64 [N], chance that an image nobody copied is as near.
        corrected: float64 [N], ``p`` corrected for N tests: the least false discovery rate at which it is called.
        originals: how many different training images the copies show.
        expected_false: copies that are expected to be false, ``RATE`` of those called so.
    """

    called: Tensor
    original: Tensor
    distance: Tensor
    p: Tensor
    corrected: Tensor
    originals: int
    expected_false: float


def copies(reached: Nearest, chance: Tensor) -> Copies | Omitted:
    """Return which of the reconstructions are copies of training images.

    Args:
        reached: of the reconstructions [N], the nearest of the victim's training images by the task-free embedding.
        chance: float64 [R], how near real images of the same classes that nobody trained on come to these.
    """
    if len(chance) < FEWEST or not bool((reached.index >= 0).any()):
        return Omitted(
            f"copies need {FEWEST} reserve images of the victim's classes to know chance by, got {len(chance)}"
        )
    p = torch.from_numpy(tail_p(reached.distance.cpu().numpy(), chance.cpu().numpy()))
    corrected = torch.from_numpy(benjamini_hochberg(p.numpy()))
    called = corrected <= RATE
    originals = len(torch.unique(reached.index[called]))
    return Copies(called, reached.index, reached.distance, p, corrected, originals, RATE * int(called.sum()))


def tail_p(distances: NDArray[np.float64], null: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the chance of distances as small or smaller under the null sample [R]; never 0."""
    count = len(null)
    bound = float(np.quantile(null, TAIL))
    excess = bound - null[null <= bound]
    empirical = (1 + (null[:, None] <= distances).sum(0)) / (1 + count)
    if excess.mean() <= 0:  # a tail without spread: nothing to fit
        return np.asarray(empirical, np.float64)
    beyond = np.maximum(bound - distances, 0) / (len(excess) * excess.mean())
    tail = len(excess) / count * (1 + beyond) ** -len(excess)
    return np.asarray(np.where(distances < bound, tail, empirical), np.float64)


def benjamini_hochberg(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p-values [N] corrected: the least false discovery rate at which each hypothesis is rejected."""
    order = np.argsort(p, kind="stable")
    stepped = p[order] * len(p) / np.arange(1, len(p) + 1)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum.accumulate(stepped[::-1])[::-1].clip(max=1)
    return corrected
