"""Bilateral dependency optimisation (BiDO; Peng et al., KDD 2022), with HSIC or COCO.

The loss becomes CE + sum_j [lambda_x d(X, Z_j) - lambda_y d(Z_j, Y)] over the hidden taps Z_j: forget the
images X (raw, in [0, 1]), keep the labels Y (one-hot).
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from clients.defences.defence import Defence, register
from fedinverse.config import Section
from fedinverse.dependence import Norm, Sigma, bilateral_coco, bilateral_hsic, published
from fedinverse.models import Classifier


class BidoSettings(Section):
    """What the two forms share."""

    sigma: Sigma = Field(5.0, description="width of the gaussian kernel, or the rule 'median' or 'median_paper'")
    label_kernel: Literal["linear", "gaussian"] = Field("linear", description="kernel of the labels")
    numerics: Literal["symmetric", "published"] = Field(
        "symmetric", description="'published': in the published code's order and precision, for parity runs"
    )

    @field_validator("sigma")
    @classmethod
    def _positive(cls, sigma: Sigma) -> Sigma:
        if not isinstance(sigma, str) and not sigma > 0:
            raise ValueError("must be positive; for a width taken from the batch write 'median' or 'median_paper'")
        return sigma


class HsicSettings(BidoSettings):
    """BiDO with the ridge-normalised HSIC; the defaults are FedInverse's for MCNN on MNIST."""

    lambda_x: float = Field(2.0, ge=0, description="weight of the dependence on the images")
    lambda_y: float = Field(20.0, ge=0, description="weight of the dependence on the labels")


class CocoSettings(BidoSettings):
    """BiDO with COCO; the defaults are FedInverse's for MCNN on MNIST."""

    lambda_x: float = Field(1.0, ge=0, description="weight of the dependence on the images")
    lambda_y: float = Field(50.0, ge=0, description="weight of the dependence on the labels")
    norm: Norm = Field(
        "frobenius",
        description="'frobenius' as published, 'spectral' by COCO's definition (symmetric numerics)",
    )


class Bido(Defence):
    """Cross-entropy plus the penalty; with both weights 0 it is plain training."""

    bilateral: ClassVar[Callable[..., Tensor]]  # the penalty in its fast form ...
    measure: ClassVar[Callable[..., Tensor]]  # ... and one of its terms in the published form

    def loss(self, model: Classifier, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (CE + penalty, logits)."""
        if self.settings.lambda_x == 0 and self.settings.lambda_y == 0:
            return super().loss(model, images, labels)
        seen = model.features(images)
        targets = F.one_hot(labels, seen.logits.shape[1]).to(images.dtype)
        penalty = self.penalty(images, targets, seen.taps)
        return F.cross_entropy(seen.logits, labels) + penalty, seen.logits

    def penalty(self, images: Tensor, targets: Tensor, taps: tuple[Tensor, ...]) -> Tensor:
        """Return sum_j [lambda_x d(X, Z_j) - lambda_y d(Z_j, Y)].

        Images X [m, C, H, W], one-hot targets Y [m, K], taps Z_j [m, ...].
        """
        s = self.settings
        if s.numerics == "symmetric":
            return self.bilateral(images, targets, taps, **s.model_dump(exclude={"numerics"}))
        total = images.new_zeros(())
        for tap in taps:
            total = total + s.lambda_x * self.measure(images, tap, ("gaussian", "gaussian"), s.sigma)
            total = total - s.lambda_y * self.measure(tap, targets, ("gaussian", s.label_kernel), s.sigma)
        return total


@register("bido_hsic")
class BidoHsic(Bido):
    """BiDO with d = the ridge-normalised HSIC."""

    Settings = HsicSettings
    bilateral = staticmethod(bilateral_hsic)
    measure = staticmethod(published.ridge_hsic)


@register("bido_coco")
class BidoCoco(Bido):
    """BiDO with d = COCO."""

    Settings = CocoSettings
    bilateral = staticmethod(bilateral_coco)
    measure = staticmethod(published.coco)
