"""How like real images a set of reconstructions is: FID, KID, precision, recall, density, coverage.

All compare features [N, F] of reconstructions with a ``RealSet`` of the same space. In another space than Inception's
the figures do not compare with published ones; they compare with each other. A set too small for a figure gives the
reason instead.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from auditor.metrics.distances import TIE, blocks
from auditor.omitted import Omitted

FEWEST_FOR_FID = 2_000  # below, the estimate of the covariance dominates FID (Chong and Forsyth 2020)
FEWEST_FOR_KID = 10
NEIGHBOURS = 5  # k of precision, recall, density and coverage


def scaled(features: Tensor) -> Tensor:
    """Return E2's features [N, F], of unit length, at root mean square 1, where whole-set metrics expect them.

    KID's kernel is then (cosine + 1)^3.
    """
    return features.double() * math.sqrt(features.shape[1])


@dataclass(frozen=True, eq=False)
class RealSet:
    """Real images' features [M, F], and what is computed of them once for all the sets held against them."""

    features: Tensor

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def likeness(self) -> Tensor:
        """KID's kernel, its mean over pairs of different images."""
        return _kernel_mean(self.features, self.features, same=True)

    @cached_property
    def radii(self) -> Tensor:
        """Distance [M] of every image to its k-th neighbour."""
        return _radii(self.features, NEIGHBOURS)


class _Given(nn.Module):
    """Hands torchmetrics the features it would otherwise download a network for."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.num_features = features

    def forward(self, features: Tensor) -> Tensor:
        return features


def fid(reconstructed: Tensor, real: RealSet) -> float | Omitted:
    """Return the Fréchet distance of the two sets' normal fits (Heusel et al. 2017), at least 0 up to rounding."""
    fewest = min(len(reconstructed), len(real))
    if fewest < FEWEST_FOR_FID:
        return Omitted(f"FID needs {FEWEST_FOR_FID:,} images on each side, got {fewest:,}; see KID")
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Given(real.features.shape[1])).set_dtype(torch.float64)
    metric = metric.to(real.features.device)
    metric.update(real.features.double(), real=True)
    metric.update(reconstructed.double(), real=False)
    return float(metric.compute())


def kid(reconstructed: Tensor, real: RealSet) -> float | Omitted:
    """Return the kernel distance: unbiased squared MMD under k(a, b) = (ab / F + 1)^3 (Binkowski et al. 2018).

    Over all pairs at once, where the published code averages over random subsets: the same expectation, less
    noise, no random numbers, and sets of different sizes. Unbiased, hence at times below 0.
    """
    fewest = min(len(reconstructed), len(real))
    if fewest < FEWEST_FOR_KID:
        return Omitted(f"KID needs {FEWEST_FOR_KID} images on each side, got {fewest}")
    within = _kernel_mean(reconstructed, reconstructed, same=True) + real.likeness
    return float(within - 2 * _kernel_mean(reconstructed, real.features, same=False))


def _kernel_mean(a: Tensor, b: Tensor, *, same: bool) -> Tensor:
    """Return the mean of k over pairs; ``same``: over pairs of different rows of one set."""
    a, b = a.double(), b.double()
    total = torch.stack([((rows @ b.T / b.shape[1] + 1) ** 3).sum() for rows in torch.split(a, 2048)]).sum()
    if same:
        total = total - ((a.square().sum(1) / a.shape[1] + 1) ** 3).sum()
    return total / (len(a) * (len(b) - same))


@dataclass(frozen=True)
class Manifolds:
    """How two sets cover each other; 1 is best, density may exceed 1.

    Attributes:
        precision: share of reconstructions within a k-neighbour ball of some real image.
        recall: share of real images within a k-neighbour ball of some reconstruction (Kynkäänniemi et al.
            2019).
        density: mean number of real balls around a reconstruction, divided by k; not fooled by one outlier.
        coverage: share of real images whose ball holds a reconstruction (Naeem et al. 2020).
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifolds(reconstructed: Tensor, real: RealSet) -> Manifolds | Omitted:
    """Return precision, recall, density and coverage with balls that reach the k-th neighbour, k = 5."""
    fewest = min(len(reconstructed), len(real))
    if fewest <= NEIGHBOURS:
        return Omitted(f"precision and recall with k = {NEIGHBOURS} need {NEIGHBOURS + 1} images, got {fewest}")
    of_reconstructed = _radii(reconstructed, NEIGHBOURS)
    balls = torch.empty(len(reconstructed), dtype=torch.float64, device=reconstructed.device)
    recalled = torch.zeros(len(real), dtype=torch.bool, device=reconstructed.device)
    covered = torch.zeros_like(recalled)
    for rows, apart in blocks(reconstructed, real.features):
        inside = apart <= real.radii + TIE
        balls[rows] = inside.double().sum(1)
        covered |= inside.any(0)
        recalled |= (apart <= of_reconstructed[rows, None] + TIE).any(0)
    return Manifolds(
        float((balls > 0).double().mean()),
        float(recalled.double().mean()),
        float(balls.mean() / NEIGHBOURS),
        float(covered.double().mean()),
    )


def _radii(rows: Tensor, neighbours: int) -> Tensor:
    """Return the distance [N] of every row to its ``neighbours``-th neighbour among the others."""
    radii = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    for part, apart in blocks(rows, rows):
        apart[torch.arange(len(apart)), torch.arange(part.start, part.stop)] = 0  # rounding leaves a little
        radii[part] = apart.kthvalue(neighbours + 1, dim=1).values
    return radii
