"""Update inversion: images of the others' last batches from two consecutive global models, theta and theta'.

Seat and difference: "A curious client in federated learning" (arXiv 2410.04661). Images: Geiping et al., "Inverting
Gradients", NeurIPS 2020. Several local steps: Dimitrov et al., "Data Leakage in Federated Averaging", TMLR 2022.

With FedAvg, theta' = sum_k p_k theta_k. The attacker knows its own replies theta_a and takes them off:

    D = (theta' - sum_a p_a theta_a) / (1 - sum_a p_a) - theta        the others' mean update       (``others_update``)
    g = -D / e,  e = eta sum_{k=1..tau} (1 - mu^k) / (1 - mu)         their mean gradient over tau local steps of rate
                                                                      eta with momentum mu: e = eta tau for mu = 0
Labels first, from the last layer's bias b: there the gradient of cross-entropy is mean prediction less share of labels,

    g_b = P^T r - r,  sum r = 1,  r >= 0                              r_c: share of class c        (``label_shares``)

with P_kc the mean probability of class c for images of class k. For one step from uniform predictions this is the
closed form r_c = 1 / K - g_b,c; else it is solved by non-negative least squares. Without a bias the row sums of the
last layer's weight take its place, divided by the mean sum of the features. Then images X with labels Y dealt by r:

    min_X  1 - cos(grad_theta CE(theta; X, Y), -D) + a_tv TV(X)       by Adam                       (``reconstruct``)

With ``steps = "simulate"`` not the gradient but the change of theta over tau steps on X is held against D.

| differs from the published code | why |
|---|---|
| P is of the attacker's own images; of other classes the model is as sure as of those | published: P of noise |
| r is a share, not a count: how many images the others hold is not known | the budget of images is a setting |
| X is one batch in train mode: BatchNorm uses its statistics, dropout is off | other clients' batches are many |
| pixels in [0, 1] by a clamp; published: a box around normalised pixels | ours are not normalised |
| one start; published: the best of several by the same loss | its images are judged against a control of one start |
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.func import functional_call

from attacker.settings import Updates
from fedinverse.data.source import unit
from fedinverse.errors import StageError
from fedinverse.models import Classifier
from fedinverse.optimisers import Adam
from fedinverse.progress import Progress, silent
from fedinverse.shard import Shard

VERSION = 1  # raise it when anything below changes what is reconstructed
DECAY = (3 / 8, 5 / 8, 7 / 8)  # of the iterations: the rate falls to a tenth
SMALL = 1e-12
Update = Mapping[str, Tensor]


@dataclass(frozen=True)
class LocalTraining:
    """What the others do in a round, as far as the attacker knows or assumes.

    Attributes:
        steps: tau, at least 1.
        rate: eta.
        momentum: mu in [0, 1).
        batch: images per step.
    """

    steps: int
    rate: float
    momentum: float = 0.0
    batch: int = 16

    @property
    def reach(self) -> float:
        """How far a constant gradient of length 1 moves a weight in a round."""
        return self.rate * sum((1 - self.momentum**step) / (1 - self.momentum) for step in range(1, self.steps + 1))


def others_update(before: Update, after: Update, replies: Sequence[Update], share: float) -> dict[str, Tensor]:
    """Return D, the others' mean update by parameter.

    Args:
        before: theta, by name.
        after: theta', of the same names and shapes.
        replies: the attackers' own weights in the round; empty: none took part.
        share: p of each in the average.

    Raises:
        StageError: the attackers' shares add up to 1 or more: nobody else took part.
    """
    rest = 1 - share * len(replies)
    if rest <= SMALL:
        raise StageError(
            f"{len(replies)} own replies of share {share:g} leave nothing to others; set updates.share to the weight "
            "of one own reply in the average"
        )
    return {
        name: (after[name] - share * sum((reply[name] for reply in replies), torch.zeros(()))) / rest - start
        for name, start in before.items()
    }


def label_shares(
    network: Classifier, later: Classifier, update: Update, training: LocalTraining, shard: Shard
) -> Tensor:
    """Return the share of every class in the others' last batches, float64 [K], summing to 1.

    Args:
        network: holds theta.
        later: holds theta'.
        update: D by parameter name.
        shard: the attacker's images; may be empty.

    Raises:
        StageError: the network's last layer is no linear one.
    """
    name, head = _head(network)
    seen = [network] if training.steps == 1 else [network, later]
    predicted = torch.stack([_predictions(each, shard) for each in seen]).mean(0)
    if head.bias is not None:
        gradient = -update[f"{name}.bias"].double() / training.reach
    else:
        features = torch.stack([_feature_sum(each, shard) for each in seen]).mean()
        gradient = -update[f"{name}.weight"].double().sum(1) / (training.reach * features)
    classes = len(gradient)
    # (P^T - 1) r = g_b, and sum r = 1: one equation more, since those of the gradient add up to nothing.
    left = torch.cat([predicted.T - torch.eye(classes, dtype=torch.float64), torch.ones(1, classes).double()])
    right = torch.cat([gradient, torch.ones(1).double()])
    solved = torch.from_numpy(nnls(left.numpy(), right.numpy())[0])
    return solved / solved.sum().clamp_min(SMALL)


def _head(network: Classifier) -> tuple[str, nn.Linear]:
    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    if not layers or layers[-1][1].out_features != network.classes:
        raise StageError(
            "update inversion reads labels from a last linear layer with one output per class; this network has none"
        )
    return layers[-1]


@torch.no_grad()
def _predictions(network: Classifier, shard: Shard) -> Tensor:
    """Return P, float64 [K, K]: mean probabilities for images of each class."""
    classes = network.classes
    sure, measured = 1 / classes, torch.zeros(classes, classes, dtype=torch.float64)
    held = shard.labels.unique().tolist()
    if held:
        probabilities = _logits(network.eval(), shard.images).double().softmax(1)
        for label in held:
            measured[label] = probabilities[shard.labels == label].mean(0)
        sure = float(measured.diagonal()[held].mean())
    for label in set(range(classes)) - set(held):
        measured[label] = (1 - sure) / (classes - 1)
        measured[label, label] = sure
    return measured


@torch.no_grad()
def _feature_sum(network: Classifier, shard: Shard) -> Tensor:
    if not len(shard):
        raise StageError("the last layer has no bias: its row sums need images of the attacker's own to be read by")
    parts = [network.eval().features(unit(part)).penultimate.double().sum(1) for part in shard.images.split(256)]
    return torch.cat(parts).mean()


def _logits(network: Classifier, images: Tensor) -> Tensor:
    return torch.cat([network(unit(part)) for part in images.split(256)])


def dealt(shares: Tensor, images: int) -> Tensor:
    """Return ``images`` labels, int64, dealt to the classes by ``shares`` (largest remainders), in class order."""
    exact = shares * images
    counts = exact.floor().long()
    remainders = (exact - counts).argsort(descending=True, stable=True)
    counts[remainders[: images - int(counts.sum())]] += 1
    return torch.arange(len(shares)).repeat_interleave(counts)


def reconstruct(
    network: Classifier,
    update: Update,
    labels: Tensor,
    settings: Updates,
    training: LocalTraining,
    random: torch.Generator,
    progress: Progress = silent,
) -> tuple[Tensor, float]:
    """Return (images float32 [N, C, H, W] in [0, 1], their distance 1 - cos to the update).

    Args:
        network: holds theta; its weights are left as they are.
        update: D by parameter name.
        labels: Y, int64 [N].
        training: the others', for ``steps = "simulate"``.
    """
    device = next(network.parameters()).device
    goal = [update[name].to(device, torch.float32) for name, _ in network.named_parameters()]
    labels = labels.to(device)

    def change(images: Tensor) -> Sequence[Tensor]:
        if settings.steps == "simulate":
            return _simulated(network, images, labels, training)
        return [-part for part in _gradient(network, images, labels)]

    _train_mode(network)
    images = torch.rand(len(labels), *network.input_shape, generator=random).to(device).requires_grad_(True)
    adam = Adam([images], settings.lr)
    milestones = [math.floor(part * settings.iterations) for part in DECAY]
    schedule = torch.optim.lr_scheduler.MultiStepLR(adam, milestones, gamma=0.1)
    for step in range(settings.iterations):
        loss = _distance(change(images), goal) + settings.tv * total_variation(images)
        (gradient,) = torch.autograd.grad(loss, images)
        images.grad = gradient.sign() if settings.signed else gradient
        adam.step()
        schedule.step()
        with torch.no_grad():
            images.clamp_(0, 1)
        progress("update inversion", step + 1, settings.iterations)
    return images.detach().cpu(), float(_distance(change(images), goal).detach())


def _gradient(network: nn.Module, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
    loss = F.cross_entropy(network(images), labels)
    return torch.autograd.grad(loss, list(network.parameters()), create_graph=True)


def _simulated(network: nn.Module, images: Tensor, labels: Tensor, training: LocalTraining) -> list[Tensor]:
    """Return the change of every parameter over the local steps on ``images``, batch after batch, as a graph."""
    start: dict[str, Tensor] = dict(network.named_parameters())
    weights = dict(start)
    speed = {name: torch.zeros_like(value) for name, value in start.items()}
    batches = torch.arange(len(labels)).split(training.batch)
    for step in range(training.steps):
        rows = batches[step % len(batches)]
        loss = F.cross_entropy(functional_call(network, weights, (images[rows],)), labels[rows])
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        for name, gradient in zip(weights, gradients, strict=True):
            speed[name] = training.momentum * speed[name] + gradient
            weights[name] = weights[name] - training.rate * speed[name]
    return [weights[name] - value for name, value in start.items()]


def _train_mode(network: nn.Module) -> None:
    """Let BatchNorm use the batch's statistics, without moving its running ones; dropout stays off."""
    network.eval().requires_grad_(True)
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.train()
            layer.momentum = 0.0


def _distance(change: Sequence[Tensor], goal: Sequence[Tensor]) -> Tensor:
    product = torch.stack([(one * other).sum() for one, other in zip(change, goal, strict=True)]).sum()
    lengths = [torch.stack([part.square().sum() for part in parts]).sum().clamp_min(SMALL) for parts in (change, goal)]
    return 1 - product / (lengths[0] * lengths[1]).sqrt()


def total_variation(images: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbouring pixels of ``images`` [N, C, H, W]."""
    across, down = images.diff(dim=3).abs().mean(), images.diff(dim=2).abs().mean()
    return across + down


def as_tensors(weights: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Return weights as float64 tensors."""
    return {name: torch.from_numpy(np.asarray(value, np.float64)) for name, value in weights.items()}
