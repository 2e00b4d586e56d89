"""VGG16-BN (Simonyan and Zisserman 2015), the face target of GMI, KED-MI, BiDO and FedInverse."""

from torch import Tensor, nn

from fedinverse.models.classifier import BlockClassifier, Features, he_init, register, scaled

STACK = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


@register("vgg16", (3, 64, 64), "VGG16-BN; GMI, KED-MI, BiDO and FedInverse target")
class VGG16(BlockClassifier):
    """Five blocks of conv3 p1, BN, ReLU, each ending in a pool; 2048 features; BN with a frozen bias; linear.

    Taps: blocks 1 to 4 after their pool, and the normalised 2048 features.
    """

    def __init__(self, classes: int, width: float = 1.0) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        fan_in = 3
        for plan in STACK:
            layers: list[nn.Module] = []
            for channels in plan:
                fan_out = scaled(channels, width)
                layers += [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.BatchNorm2d(fan_out), nn.ReLU()]
                fan_in = fan_out
            blocks.append(nn.Sequential(*layers, nn.MaxPool2d(2)))
        self.blocks = nn.ModuleList(blocks)
        flat = 4 * fan_in  # 64 pixels after five pools: 2x2
        norm = nn.BatchNorm1d(flat)
        norm.bias.requires_grad_(False)
        self.pool = nn.Sequential(nn.Flatten(), norm)
        self.head = nn.Linear(flat, classes)
        he_init(self)

    def features(self, images: Tensor) -> Features:
        """Return the four block outputs and the normalised 2048 features as taps."""
        seen = super().features(images)
        return Features((*seen.taps[:-1], seen.penultimate), seen.penultimate, seen.logits)
