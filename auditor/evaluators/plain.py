"""A small convolutional classifier of the auditor's own, for images of any size; no target has its architecture.

Photographs need more of it than drawings: of synthfaces (64 pixels, twelve pictures of each of 40 people to learn from,
"none of these" among the answers) three blocks read 49 % of unseen pictures, four blocks of twice the widths 90 %.
"""

import torch
from torch import Tensor, nn

from fedinverse.models.classifier import Classifier, Features
from fedinverse.seeds import seeded

DRAWINGS = (16, 32, 64)  # widths of the blocks, for images of up to 32 pixels
PHOTOGRAPHS = (32, 64, 128, 256)  # of larger ones


class PlainClassifier(Classifier):
    """conv3 /2; further conv3, each with a pool; means of the image's quarters; linear. All with BatchNorm and ReLU."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.input_shape, self.classes = shape, classes
        first, *further = PHOTOGRAPHS if max(shape[1:]) > 32 else DRAWINGS
        blocks = [nn.Sequential(nn.Conv2d(shape[0], first, 3, 2, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU())]
        width = first
        for wider in further:
            convolution = nn.Conv2d(width, wider, 3, 1, 1, bias=False)
            blocks.append(nn.Sequential(convolution, nn.BatchNorm2d(wider), nn.ReLU(), nn.MaxPool2d(2)))
            width = wider
        self.blocks = nn.ModuleList(blocks)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(4 * width, classes)

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
