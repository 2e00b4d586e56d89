"""Networks whose BatchNorm is replaced by GroupNorm (Wu & He 2018), as DP-SGD needs.

BatchNorm mixes the images of a batch, so one image's gradient cannot be told from another's and its
statistics leave the client without noise.
"""

import math

from torch import nn

from fedinverse.models.classifier import BlockClassifier, register
from fedinverse.models.mcnn import MCNN

GROUPS = 32  # the paper's, of a network of the published width


def with_group_norm(model: BlockClassifier, width: float = 1.0) -> BlockClassifier:
    """Replace every ``BatchNorm2d`` of ``model`` by a ``GroupNorm``, of as many channels a group at every width.

    With 32 groups a narrow network would have two values in each group of its last block, one pixel large. Normalised,
    all that is left of two values is which is larger, and the network does not learn.

    Args:
        width: its width; a narrower one has fewer groups. Fewer, too, where they do not divide the channels.
    """
    groups = max(1, round(GROUPS * width))
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.GroupNorm(math.gcd(groups, child.num_features), child.num_features))
    return model


@register("mcnn_gn", (1, 32, 32), "KED-MI's MCNN with GroupNorm for BatchNorm")
def mcnn_gn(classes: int, width: float) -> BlockClassifier:
    """Return MCNN with GroupNorm."""
    return with_group_norm(MCNN(classes, width), width)
