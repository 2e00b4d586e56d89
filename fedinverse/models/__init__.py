"""Networks by name: ``build("mcnn", classes=10, width=0.5)``. One file per network, one registry.

Every network is a ``Classifier``: logits from ``forward``, hidden taps from ``features``.
"""

from fedinverse.models import groupnorm, improved_resnet, lenet5, mcnn, resnet18, scnn, vgg16, vib  # noqa: F401 - registers them
from fedinverse.models.classifier import Classifier, Features, ModelSpec
from fedinverse.models.inference import for_inference
from fedinverse.models.names import build, is_code, model_names, refuse_code, same_network, spec_of, why_not
from fedinverse.models.shapes import built_for, check_shapes, claimed, network_in, size_of

__all__ = [
    "Classifier",
    "Features",
    "ModelSpec",
    "build",
    "built_for",
    "check_shapes",
    "claimed",
    "for_inference",
    "is_code",
    "model_names",
    "network_in",
    "refuse_code",
    "same_network",
    "size_of",
    "spec_of",
    "why_not",
]
