"""LeNet-5 for 32x32 digits (LeCun et al. 1998): ``lenet5`` with ReLU, ``lenet5_linear`` as FedInverse publishes it.

The published version has no activations between its layers: but for its pooling it is linear. Its weights compute
something else in ``lenet5``, and the other way round.
"""

from torch import nn

from fedinverse.models.classifier import BlockClassifier, register, scaled


@register("lenet5", (1, 32, 32), "LeCun et al. 1998, with ReLU")
class LeNet5(BlockClassifier):
    """conv5 -> 6, pool; conv5 -> 16, pool; 400-120-84-K. Taps: both convolution blocks, 84 features."""

    activation: type[nn.Module] = nn.ReLU

    def __init__(self, classes: int, width: float = 1.0) -> None:
        super().__init__()
        act = self.activation
        a, b, c, d = (scaled(channels, width) for channels in (6, 16, 120, 84))
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(1, a, 5), act(), nn.MaxPool2d(2)),
                nn.Sequential(nn.Conv2d(a, b, 5), act(), nn.MaxPool2d(2)),
                nn.Sequential(nn.Flatten(), nn.Linear(25 * b, c), act(), nn.Linear(c, d), act()),
            ]
        )
        self.pool = nn.Identity()
        self.head = nn.Linear(d, classes)


@register("lenet5_linear", (1, 32, 32), "FedInverse target as published: LeNet-5 without activations")
class LinearLeNet5(LeNet5):
    """``lenet5`` without activations."""

    activation = nn.Identity
