"""SCNN, the MNIST evaluator of KED-MI and FedInverse: another architecture than the target it judges."""

from torch import nn

from fedinverse.models.classifier import BlockClassifier, conv_block, register, scaled, whole_conv_block


@register("scnn", (1, 32, 32), "KED-MI (ICCV 2021), MNIST evaluator")
class SCNN(BlockClassifier):
    """conv7 p1 -> 32, pool; conv5 -> 64, pool; conv5 -> 128 at 1x1; conv3 p1 -> 256, 512; linear."""

    def __init__(self, classes: int, width: float = 1.0) -> None:
        super().__init__()
        a, b, c, d, e = (scaled(channels, width) for channels in (32, 64, 128, 256, 512))
        self.blocks = nn.ModuleList(
            [
                conv_block(1, a, 7, padding=1, pool=True),
                conv_block(a, b, 5, pool=True),
                whole_conv_block(b, c, 5),
                conv_block(c, d, 3, padding=1),
                conv_block(d, e, 3, padding=1),
            ]
        )
        self.pool = nn.Identity()  # 1x1 from the third block on
        self.head = nn.Linear(e, classes)
