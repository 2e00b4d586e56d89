"""IR backbones of face recognition (ArcFace, Deng et al., CVPR 2019; the face.evoLVe library): ``ir152``,
``face_evolve`` (IR-50) at 64 pixels and the evaluator ``facenet112`` (IR-50 at 112), as KED-MI uses them.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from fedinverse.models.classifier import BlockClassifier, Features, projection, register, scaled

IR50 = (3, 4, 14, 3)  # units per stage
IR152 = (3, 8, 36, 3)
EMBEDDING = 512


class Unit(nn.Module):
    """BN, conv3, PReLU, conv3 (stride), BN, beside a shortcut: 1x1 convolution, or plain sampling."""

    def __init__(self, fan_in: int, fan_out: int, stride: int, same_width: bool) -> None:
        super().__init__()
        self.shortcut: nn.Module = nn.MaxPool2d(1, stride)
        if not same_width:
            self.shortcut = projection(fan_in, fan_out, stride)
        self.residual = nn.Sequential(
            nn.BatchNorm2d(fan_in),  # before a padded convolution: cannot be folded exactly, the border differs
            nn.Conv2d(fan_in, fan_out, 3, 1, 1, bias=False),
            nn.PReLU(fan_out),
            nn.Conv2d(fan_out, fan_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(fan_out),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Return residual + shortcut."""
        return self.residual(hidden) + self.shortcut(hidden)  # type: ignore[no-any-return]


class ImprovedResNet(BlockClassifier):
    """Stem conv3, BN, PReLU; four stages of 64 to 512 channels, each halving; BN, dropout, embedding; linear.

    The embedding has 512 dimensions. Taps: the four stages. Images of another size than ``side`` are resized
    (bilinear) on their device.
    """

    def __init__(self, classes: int, width: float, units: tuple[int, ...], side: int) -> None:
        super().__init__()
        self.side = side
        stages: list[nn.Module] = []
        fan_in = scaled(64, width)
        layers: list[nn.Module] = [
            nn.Conv2d(3, fan_in, 3, 1, 1, bias=False),
            nn.BatchNorm2d(fan_in),
            nn.PReLU(fan_in),
        ]
        for stage, (channels, count) in enumerate(zip((64, 128, 256, 512), units, strict=True)):
            fan_out = scaled(channels, width)
            layers.append(Unit(fan_in, fan_out, 2, same_width=stage == 0))
            layers += [Unit(fan_out, fan_out, 1, same_width=True) for _ in range(count - 1)]
            stages.append(nn.Sequential(*layers))
            layers, fan_in = [], fan_out
        self.blocks = nn.ModuleList(stages)
        embedding = scaled(EMBEDDING, width)
        self.pool = nn.Sequential(
            nn.BatchNorm2d(fan_in),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(fan_in * (side // 16) ** 2, embedding),
            nn.BatchNorm1d(embedding),
        )
        self.head = nn.Linear(embedding, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)  # as face.evoLVe does
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def features(self, images: Tensor) -> Features:
        """Return the four stages as taps and the embedding as penultimate features."""
        if images.shape[-1] != self.side:
            images = F.interpolate(images, size=(self.side, self.side), mode="bilinear", align_corners=False)
        return super().features(images)


@register("ir152", (3, 64, 64), "IR-152 at 64 pixels; KED-MI target")
def ir152(classes: int, width: float = 1.0) -> ImprovedResNet:
    """Build IR-152."""
    return ImprovedResNet(classes, width, IR152, side=64)


@register("face_evolve", (3, 64, 64), "IR-50 at 64 pixels (face.evoLVe); KED-MI target")
def face_evolve(classes: int, width: float = 1.0) -> ImprovedResNet:
    """Build IR-50."""
    return ImprovedResNet(classes, width, IR50, side=64)


@register("facenet112", (3, 64, 64), "IR-50 at 112 pixels; KED-MI and FedInverse evaluator of faces")
def facenet112(classes: int, width: float = 1.0) -> ImprovedResNet:
    """Build IR-50 at 112 pixels; it resizes its input itself."""
    return ImprovedResNet(classes, width, IR50, side=112)
