"""FedInverse's own "MID": CE + lambda_x COCO(X, logits), one tap. The MID of Wang et al. is ``mid``.

As published, the images' kernel is gaussian of width 5 and the logits' is linear.
"""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from clients.defences.defence import Defence, register
from fedinverse.config import Section
from fedinverse.dependence import coco_frobenius, kernel_matrix
from fedinverse.models import Classifier


class MidCocoSettings(Section):
    """One weight; the norm is the published Frobenius norm."""

    lambda_x: float = Field(1.0, ge=0, description="weight of COCO between images and logits")


@register("mid_coco")
class MidCoco(Defence):
    """Penalises the dependence of the logits on the images."""

    Settings = MidCocoSettings

    def loss(self, model: Classifier, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (CE + lambda_x COCO(X, logits), logits)."""
        logits = model(images)
        dependence = coco_frobenius(kernel_matrix(images), kernel_matrix(logits, "linear")).to(logits.dtype)
        return F.cross_entropy(logits, labels) + self.settings.lambda_x * dependence, logits
