"""Central utility evaluation: accuracy of the global model, per class, on images that are in no training set."""

from typing import Any

import torch
import torch.nn.functional as F

from fedinverse.data.source import unit
from fedinverse.models import Classifier, for_inference
from fedinverse.shard import Shard


@torch.inference_mode()
def utility(
    network: Classifier, held_out: Shard, victim_classes: tuple[int, ...], device: str | torch.device = "cpu"
) -> dict[str, Any]:
    """Evaluate ``network`` on ``held_out``.

    Returns:
        ``accuracy`` and ``loss`` over all images, ``victim-accuracy`` over the victim classes (None
        without any), and ``class-accuracy``, one value per class; shares in [0, 1].
    """
    ready = for_inference(network, device)
    logits = torch.cat([ready(unit(part, device)) for part in held_out.images.split(256)]).cpu()
    right = (logits.argmax(1) == held_out.labels).float()
    hits = torch.zeros(network.classes).index_add_(0, held_out.labels, right)
    counts = torch.bincount(held_out.labels, minlength=network.classes)
    victims = list(victim_classes)
    known = float(hits[victims].sum() / counts[victims].sum()) if victims else None
    return {
        "accuracy": float(right.mean()),
        "loss": float(F.cross_entropy(logits, held_out.labels)),
        "victim-accuracy": known,
        "class-accuracy": (hits / counts.clamp_min(1)).tolist(),
    }
