"""LeNet-5 for 32x32 digits (LeCun et al. 1998).

The published FedInverse version has no activations between its layers; a network without them is linear up to
its pooling, so ReLU is kept here.
"""

from torch import nn

from fedinverse.models.classifier import BlockClassifier, register, scaled


@register("lenet5", (1, 32, 32), "LeCun et al. 1998; FedInverse target, with ReLU")
class LeNet5(BlockClassifier):
    """conv5 -> 6, pool; conv5 -> 16, pool; 400-120-84-K. Taps: both convolution blocks, 84 features."""

    def __init__(self, classes: int, width: float = 1.0) -> None:
        super().__init__()
        a, b, c, d = (scaled(channels, width) for channels in (6, 16, 120, 84))
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(1, a, 5), nn.ReLU(), nn.MaxPool2d(2)),
                nn.Sequential(nn.Conv2d(a, b, 5), nn.ReLU(), nn.MaxPool2d(2)),
                nn.Sequential(nn.Flatten(), nn.Linear(25 * b, c), nn.ReLU(), nn.Linear(c, d), nn.ReLU()),
            ]
        )
        self.pool = nn.Identity()
        self.head = nn.Linear(d, classes)
