"""A small convolutional classifier of the auditor's own, for images of any size; no target has its architecture."""

import torch
from torch import Tensor, nn

from fedinverse.models.classifier import Classifier, Features
from fedinverse.seeds import seeded

NAME = "auditor's own"
CHANNELS = (16, 32, 64)


class PlainClassifier(Classifier):
    """conv3 /2 -> 16; conv3 -> 32, pool; conv3 -> 64, pool; means of the image's quarters; linear. BatchNorm, ReLU."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.input_shape, self.classes = shape, classes
        a, b, c = CHANNELS
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(shape[0], a, 3, 2, 1, bias=False), nn.BatchNorm2d(a), nn.ReLU()),
                nn.Sequential(nn.Conv2d(a, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)),
                nn.Sequential(nn.Conv2d(b, c, 3, 1, 1, bias=False), nn.BatchNorm2d(c), nn.ReLU(), nn.MaxPool2d(2)),
            ]
        )
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(4 * c, classes)

    def features(self, images: Tensor) -> Features:
        """Return the output of every block as taps."""
        taps, hidden = [], images
        for block in self.blocks:
            hidden = block(hidden)
            taps.append(hidden)
        quarters = self.pool(hidden).flatten(1)
        return Features(tuple(taps), quarters, self.head(quarters))


def plain_classifier(shape: tuple[int, int, int], classes: int, seed: int) -> PlainClassifier:
    """Return one with weights drawn from ``seed``, in train mode, channels-last."""
    with seeded(seed):
        return PlainClassifier(shape, classes).to(memory_format=torch.channels_last)
