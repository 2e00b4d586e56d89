"""Local training: what every client, honest or malicious, does with the global model it receives."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clients.defences.defence import Defence
from clients.settings import Training
from fedinverse.data.source import unit
from fedinverse.errors import FedInverseError
from fedinverse.models import Classifier
from fedinverse.optimisers import SGD, Adam
from fedinverse.seeds import derive, seeded
from fedinverse.shard import Shard


class TrainingDivergedError(FedInverseError):
    """The local loss became NaN or infinite."""


@dataclass(frozen=True)
class TrainResult:
    """Averages over the last local epoch.

    Attributes:
        examples: number of images of the shard, the client's weight in FedAvg.
        loss: mean loss per image, penalties of the defence included.
        accuracy: share of images classified right while training.
    """

    examples: int
    loss: float
    accuracy: float


def train(
    model: Classifier,
    shard: Shard,
    settings: Training,
    defence: Defence,
    generator: torch.Generator,
    device: str | torch.device = "cpu",
    proximal_mu: float = 0.0,
) -> TrainResult:
    """Train ``model`` in place on ``shard``.

    Args:
        model: the global model's weights, on ``device``.
        defence: changes the loss, the model or the step; ``NoDefence`` is plain training.
        generator: CPU generator of the batch order and of the defence's noise. Its seed also seeds what the network
            draws itself (dropout), so that the whole result follows from it.
        proximal_mu: weight mu of FedProx' term mu/2 ||w - w_global||^2 (Li et al. 2020); it acts on the gradient, after
            any noise of the defence, and is not in the reported loss.

    Raises:
        TrainingDivergedError: the loss, or a weight to be sent, is NaN or infinite.
    """
    with seeded(derive(generator.initial_seed(), "layers"), device):
        return _train(model, shard, settings, defence, generator, device, proximal_mu)


def _train(
    model: Classifier,
    shard: Shard,
    settings: Training,
    defence: Defence,
    generator: torch.Generator,
    device: str | torch.device,
    proximal_mu: float,
) -> TrainResult:
    model.train()
    images, labels = shard.images.to(device), shard.labels.to(device)
    coins = torch.Generator().manual_seed(derive(generator.initial_seed(), "flips"))
    total, right = torch.zeros(2, device=device, dtype=torch.float64)
    seen = 0
    trained = defence.prepare(model, len(shard), generator)
    try:
        optimizer = defence.wrap_optimizer(_optimizer(trained, settings, proximal_mu), settings, len(shard))
        for _ in range(settings.epochs):
            total.zero_()
            right.zero_()
            seen = 0
            for rows in defence.batches(len(shard), settings.batch_size, generator):
                batch, truth = unit(images[rows], device), labels[rows]
                if settings.flips:
                    mirrored = torch.rand(len(rows), 1, 1, 1, generator=coins).to(device) < 0.5
                    batch = torch.where(mirrored, batch.flip(3), batch)
                optimizer.zero_grad(set_to_none=True)
                loss, logits = defence.loss(trained, batch, truth)
                loss.backward()
                optimizer.step()
                total += loss.detach() * len(rows)
                right += (logits.argmax(1) == truth).sum()
                seen += len(rows)
    finally:
        defence.finish(trained)
    # The last step may have broken the weights after a loss that was still finite.
    if not _all_finite([total, *(values.detach() for values in (*model.parameters(), *model.buffers()))]):
        raise TrainingDivergedError(
            f"local training with defence '{defence.name}' diverged (loss {float(total):g}); "
            "lower training.lr or the defence's weights"
        )
    count = max(seen, 1)  # a defence that samples its batches may have drawn none
    return TrainResult(len(shard), float(total) / count, float(right) / count)


def _all_finite(tensors: list[Tensor]) -> bool:
    """Return whether no value is NaN or infinite. A finite sum says so in a tenth of the time; others may overflow."""
    sums = torch.stack([values.sum().double() for values in tensors])
    return bool(sums.isfinite().all()) or all(bool(values.isfinite().all()) for values in tensors)


def _optimizer(model: nn.Module, settings: Training, proximal_mu: float) -> torch.optim.Optimizer:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "adam":
        optimizer = Adam(weights, settings.lr, weight_decay=settings.weight_decay)
    else:
        optimizer = SGD(
            weights, settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay, foreach=True
        )
    if proximal_mu:
        start = [weight.detach().clone() for weight in weights]

        def pull(*_: object) -> None:
            for weight, origin in zip(weights, start, strict=True):
                if weight.grad is not None:
                    weight.grad.add_(weight.detach() - origin, alpha=proximal_mu)

        optimizer.register_step_pre_hook(pull)
    return optimizer


@torch.inference_mode()
def evaluate(
    model: Classifier, shard: Shard, device: str | torch.device = "cpu", batch_size: int = 256
) -> tuple[float, float]:
    """Return (mean cross-entropy, accuracy) of ``model`` in eval mode on ``shard``."""
    model.eval()
    loss, right = 0.0, 0
    for rows in torch.arange(len(shard)).split(batch_size):
        logits = model(unit(shard.images[rows], device))
        truth = shard.labels[rows].to(device)
        loss += float(F.cross_entropy(logits, truth, reduction="sum"))
        right += int((logits.argmax(1) == truth).sum())
    return loss / len(shard), right / len(shard)
