"""Any classification network of torchvision as a ``Classifier``: ``torchvision:resnet50``."""

from torch import Tensor, nn

from fedinverse.errors import ConfigError
from fedinverse.models.classifier import Classifier, Features

INPUT_SHAPE = (3, 64, 64)
AUXILIARY = ("googlenet", "inception_v3")  # return more than logits while they train


class TorchvisionClassifier(Classifier):
    """A torchvision network whose last linear layer is taken out as ``head``. Tap: the features it reads."""

    def __init__(self, network: str, classes: int, width: float = 1.0) -> None:
        super().__init__()
        from torchvision import models

        if network not in models.list_models(module=models) or network in AUXILIARY:
            raise ConfigError(
                f"model 'torchvision:{network}' is unknown; take one of "
                f"torchvision.models.list_models(module=torchvision.models) but {' and '.join(AUXILIARY)}"
            )
        if width != 1:
            raise ConfigError(f"model 'torchvision:{network}' has one width; set model.width = 1")
        self.backbone = models.get_model(network, weights=None, num_classes=classes)
        linear = [pair for pair in self.backbone.named_modules() if isinstance(pair[1], nn.Linear)]
        if not linear or linear[-1][1].out_features != classes:
            raise ConfigError(f"model 'torchvision:{network}' does not end in a linear layer; choose another")
        name, head = linear[-1]
        self.backbone.set_submodule(name, nn.Identity())
        self.head = head

    def features(self, images: Tensor) -> Features:
        """Return the features before the last linear layer, as the only tap and as penultimate."""
        flat = self.backbone(images)
        return Features((flat,), flat, self.head(flat))
