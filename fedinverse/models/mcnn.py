"""MCNN, the MNIST target of KED-MI, BiDO and FedInverse (published code of KED-MI, ``classify.py``)."""

from torch import nn

from fedinverse.models.classifier import BlockClassifier, conv_block, register, scaled, whole_conv_block


@register("mcnn", (1, 32, 32), "KED-MI (ICCV 2021), MNIST target")
class MCNN(BlockClassifier):
    """conv7 p1 -> 64, pool; conv5 -> 128, pool; conv5 -> 256; linear. Taps: the three block outputs."""

    def __init__(self, classes: int, width: float = 1.0) -> None:
        super().__init__()
        a, b, c = (scaled(channels, width) for channels in (64, 128, 256))
        self.blocks = nn.ModuleList(
            [conv_block(1, a, 7, padding=1, pool=True), conv_block(a, b, 5, pool=True), whole_conv_block(b, c, 5)]
        )
        self.pool = nn.Identity()  # the last block is 1x1 already
        self.head = nn.Linear(c, classes)
