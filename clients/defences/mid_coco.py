"""FedInverse's own "MID": CE + lambda_x COCO(X, logits), one tap. The MID of Wang et al. is ``mid``."""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from clients.defences.defence import Defence, register
from fedinverse.config import Section
from fedinverse.dependence import bilateral_coco
from fedinverse.models import Classifier


class MidCocoSettings(Section):
    """One weight; kernels are gaussian of width 5, the norm is the published Frobenius norm."""

    lambda_x: float = Field(1.0, ge=0, description="weight of COCO between images and logits")


@register("mid_coco")
class MidCoco(Defence):
    """Penalises the dependence of the logits on the images."""

    Settings = MidCocoSettings

    def loss(self, model: Classifier, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (CE + lambda_x COCO(X, logits), logits)."""
        logits = model(images)
        targets = F.one_hot(labels, logits.shape[1]).to(images.dtype)
        penalty = bilateral_coco(images, targets, (logits,), lambda_x=self.settings.lambda_x, lambda_y=0.0)
        return F.cross_entropy(logits, labels) + penalty, logits
