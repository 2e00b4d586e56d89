"""FedInverse's diversity regulariser: a dependence measure of generated images, added to an attack's loss.

| measure | term, to be minimised with weight lambda | source |
|---|---|---|
| ``none`` | nothing | |
| ``hsic_paper`` | ridge-normalised HSIC of the first and second half of a batch of one image per class | FedInverse |
| ``coco_paper`` | sqrt(||K_c L_c||_F) / m of the same halves | FedInverse |
| ``hsic`` | per class: unbiased HSIC of latent codes and the target's features of several samples | Song et al. 2012 |

What the paper's terms do, by construction and measured (docs/attacks.md): with halves of m = 2 images every R is the
same projection, so the value is nearly 1 and its gradient nearly 0; with a fixed sigma a batch that collapses has
K_c -> 0, so descending the term *shrinks* distances; and the images it compares belong to different classes. They
are kept for comparison.

The valid term asks the right question: do different codes of one class give different images? Its kernels' widths
are fixed (latent: of the prior; features: median over the public set), so shrinking the features lowers dependence
instead of being normalised away. More dependence is more diversity: lambda is negative to diversify.

| differs from the published code | why |
|---|---|
| HSIC centred on both sides, by Cholesky, m x m in float64 | same value; published gradients are up to 1000 % off |
| the term counts once per sample of the summed loss | same balance as one term on a loss averaged over the batch |
| a failed (NaN) reconstruction enters as black | it must not take the others with it |
"""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.func import vmap

from attacker.streams import occurrences
from attacker.target import PublicSet, Target, public_view
from fedinverse.config import Section
from fedinverse.dependence import coco_frobenius, flat, ridge_hsic, squared_distances, unbiased_hsic
from fedinverse.dependence.kernels import Kernel, Sigma, bandwidth, gaussian, imq
from fedinverse.diversity import vendi_score
from fedinverse.errors import ConfigError

Measure = Literal["none", "hsic_paper", "coco_paper", "hsic"]
_LEAST = 4  # samples the unbiased HSIC needs
_REFERENCE_IMAGES = 512  # enough for a median of distances


class DiversitySettings(Section):
    """The regulariser. Defaults, apart from ``measure``, are FedInverse's."""

    measure: Measure = Field("none", description="none, hsic_paper, coco_paper (FedInverse) or hsic (valid)")
    weight: float = Field(
        0.05,
        description="lambda; positive is minimised (published), negative maximised; 0 is the same as none",
    )
    sigma: float = Field(
        5.0,
        ge=0,
        description="width of hsic_paper's and coco_paper's gaussian kernel; 0: the published median rule",
    )
    kernel: Kernel = Field(
        "gaussian", description="hsic_paper's and coco_paper's kernel of the second half; the first half's is gaussian"
    )

    @property
    def active(self) -> bool:
        """Whether there is anything to compute."""
        return self.measure != "none" and self.weight != 0


@dataclass(frozen=True)
class Diversity:
    """The regulariser for one target. ``spread``: median squared distance of public features (``hsic`` only)."""

    settings: DiversitySettings
    spread: Tensor | None = None

    @property
    def active(self) -> bool:
        """Whether there is anything to compute."""
        return self.settings.active

    def __call__(self, images: Tensor, latent: Tensor, features: Tensor) -> Tensor:
        """Return the weighted term (a scalar) of C classes with S samples each.

        Args:
            images: [C, S, channels, H, W] in [0, 1].
            latent: [C, S, d].
            features: the target's penultimate features [C, S, F].

        Returns:
            lambda C mean_s d(first half of classes, second half), or lambda sum_c HSIC(latent_c, features_c): what
            one sample per class adds to a loss that is summed over classes.
        """
        weight = self.settings.weight
        if self.settings.measure == "hsic":
            assert self.spread is not None
            codes = squared_distances(*_finite(latent, latent))
            looks = squared_distances(*_finite(features, latent))
            # Prior codes lie sqrt(2 d) apart: 2 s = 2 d makes their kernel e^-1 at that distance.
            kernels = gaussian(codes, float(latent.shape[-1])), gaussian(looks, self.spread)
            return (weight * vmap(unbiased_hsic)(*kernels).sum()).to(images.dtype)
        half = len(images) // 2  # an odd last image is dropped
        if half == 0:
            return images.new_zeros(())
        batches = _finite(images, images).transpose(0, 1)  # one batch per sample: one image of every class
        first = self._kernel(batches[:, :half], "gaussian")  # as published: the chosen kernel is the second half's
        second = self._kernel(batches[:, half : 2 * half], self.settings.kernel)
        measure = ridge_hsic if self.settings.measure == "hsic_paper" else coco_frobenius
        return (weight * len(images) * vmap(measure)(first, second).mean()).to(images.dtype)

    def _kernel(self, batches: Tensor, kernel: Kernel) -> Tensor:
        """Return the kernel matrices [S, m, m] of ``batches`` [S, m, channels, H, W]."""
        if kernel == "linear":
            rows = torch.stack([flat(batch) for batch in batches])
            return (rows @ rows.mT).double()
        distances = squared_distances(*batches)
        if kernel == "imq":
            return imq(distances)
        sigma: Sigma = self.settings.sigma or "median_paper"
        scales = [
            torch.as_tensor(bandwidth(each, batches[0, 0].numel(), sigma), dtype=each.dtype, device=each.device)
            for each in distances
        ]
        return gaussian(distances, torch.stack(scales)[:, None, None])


def _finite(values: Tensor, judged: Tensor) -> Tensor:
    """Return ``values`` [C, S, ...] with zeros where a sample of ``judged`` or itself is not finite."""
    good = torch.isfinite(judged.flatten(2)).all(2) & torch.isfinite(values.flatten(2)).all(2)
    return torch.where(good.view(*good.shape, *[1] * (values.dim() - 2)), values, torch.zeros_like(values))


def diversity_term(
    settings: DiversitySettings, target: Target, public: PublicSet, generator: torch.Generator
) -> Diversity:
    """Return the regulariser for ``target``; the public images set the width of ``hsic``'s feature kernel."""
    if not settings.active or settings.measure != "hsic":
        return Diversity(settings)
    rows = torch.randperm(len(public.images), generator=generator)[:_REFERENCE_IMAGES]
    features, _ = public_view(target.model, public.images[rows], target.device)
    distances = squared_distances(features)[0]
    return Diversity(settings, torch.as_tensor(bandwidth(distances, features.shape[1], "median")))


@dataclass(frozen=True)
class Layout:
    """Where the restarts of each class stand among the labels.

    Attributes:
        classes: int64 [C], the distinct classes in the order of their first occurrence.
        column: int64 [N], the position of each label in ``classes``.
        restart: int64 [N], how often the label occurred before.
    """

    classes: Tensor
    column: Tensor
    restart: Tensor

    @property
    def samples(self) -> int:
        """The most samples any class asks for."""
        return int(self.restart.max()) + 1

    def grid(self) -> Tensor:
        """Return the rows of the labels as [C, S].

        Raises:
            ConfigError: a class occurs less often than another.
        """
        if len(self.column) != len(self.classes) * self.samples:
            raise ConfigError("the diversity term needs every class equally often: use the same restarts for all")
        rows = torch.empty(len(self.classes), self.samples, dtype=torch.int64)
        rows[self.column, self.restart] = torch.arange(len(self.column))
        return rows


def layout(labels: Tensor) -> Layout:
    """Return the layout of ``labels`` [N]."""
    position: dict[int, int] = {}
    column = [position.setdefault(label, len(position)) for label in labels.tolist()]
    return Layout(torch.tensor(list(position)), torch.tensor(column), occurrences(labels))


def blocks(settings: DiversitySettings, classes: int, samples: int, fits: int) -> list[tuple[slice, slice]]:
    """Cut a grid of ``classes`` x ``samples`` into blocks of at most ``fits`` images, as an active term allows.

    The paper's terms couple the classes of a sample, ``hsic`` the samples of a class.

    Raises:
        ConfigError: too few samples for ``hsic``, or ``fits`` is less than the term couples.
    """
    if settings.measure == "hsic":
        if samples < _LEAST:
            raise ConfigError(
                f"diversity measure 'hsic' compares samples of one class and needs {_LEAST}, got {samples}: "
                "raise 'restarts' (GMI) or 'draws' (KED-MI, VMI)"
            )
        coupled, free = samples, classes
    else:
        coupled, free = classes, samples
    if coupled > fits:
        raise ConfigError(
            f"diversity measure '{settings.measure}' couples {coupled} images; raise 'max_batch' to hold them"
        )
    step = fits // coupled
    cuts = [slice(start, min(start + step, free)) for start in range(0, free, step)]
    everything = slice(None)
    return [(cut, everything) if settings.measure == "hsic" else (everything, cut) for cut in cuts]


@dataclass(frozen=True)
class ClassDiversity:
    """How different the reconstructions of one class are.

    Attributes:
        samples: how many there were, failed ones left out.
        pixel_distance: mean Euclidean distance of pairs of images, per pixel value (root mean square), in [0, 1].
        feature_distance: mean Euclidean distance of pairs of feature vectors.
        vendi: Vendi score of the features, from 1 (all alike) to ``samples`` (all different).
    """

    samples: int
    pixel_distance: float
    feature_distance: float
    vendi: float


def measured_diversity(images: Tensor, features: Tensor, labels: Tensor, failed: Tensor) -> dict[int, ClassDiversity]:
    """Measure each class with at least two reconstructions that did not fail.

    Args:
        images: [N, C, H, W] in [0, 1].
        features: [N, F] of any network; those of an evaluator for an audit, of the target for an attacker.
        labels: int64 [N].
        failed: bool [N].
    """
    measured = {}
    for label in sorted(set(labels.tolist())):
        rows = torch.nonzero((labels == label) & ~failed).flatten()
        if len(rows) < 2:
            continue
        pixels, seen = images[rows].flatten(1), features[rows].flatten(1)
        measured[label] = ClassDiversity(
            len(rows),
            _mean_distance(pixels / pixels.shape[1] ** 0.5),
            _mean_distance(seen),
            vendi_score(seen),
        )
    return measured


def _mean_distance(rows: Tensor) -> float:
    return float(torch.pdist(rows.double()).mean())
