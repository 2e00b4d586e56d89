"""What every target and evaluator network offers, and the registry that names them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedinverse.models.image_layers import WholeConv2d
from fedinverse.registry import Registry


@dataclass(frozen=True)
class Features:
    """What a forward pass saw.

    Attributes:
        taps: the hidden representations a dependence penalty may act on, in depth order, each [B, ...].
        penultimate: the flat features the last linear layer reads, [B, F].
        logits: [B, K].
    """

    taps: tuple[Tensor, ...]
    penultimate: Tensor
    logits: Tensor


class Classifier(nn.Module, ABC):
    """A network for images in [0, 1], NCHW. ``input_shape`` is (C, H, W) and is met exactly.

    Hidden taps come from ``features``, never from another forward signature for defended models.
    """

    input_shape: tuple[int, int, int]
    classes: int
    memory_format: ClassVar[torch.memory_format] = torch.channels_last

    @abstractmethod
    def features(self, images: Tensor) -> Features:
        """Return taps, penultimate features and logits of ``images`` [B, C, H, W]."""

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, K] of ``images`` [B, C, H, W] in [0, 1]."""
        return self.features(images).logits


class BlockClassifier(Classifier):
    """The common shape: blocks in sequence, then a head on the flattened (or pooled) output. Taps: blocks."""

    blocks: nn.ModuleList
    pool: nn.Module
    head: nn.Module

    def features(self, images: Tensor) -> Features:
        """Return the output of every block as taps."""
        taps = []
        hidden = images
        for block in self.blocks:
            hidden = block(hidden)
            taps.append(hidden)
        flat = self.pool(hidden).flatten(1)
        return Features(tuple(taps), flat, self.head(flat))


@dataclass(frozen=True)
class ModelSpec:
    """A registered network: its constructor, the image shape it takes and where it comes from."""

    name: str
    input_shape: tuple[int, int, int]
    source: str
    construct: Callable[[int, float], Classifier]


def _spec(imported: object) -> ModelSpec | None:
    """Return the network that an imported object stands for: a spec, a registered constructor, a class of its own."""
    if isinstance(imported, ModelSpec):
        return imported
    registered = next((spec for spec in MODELS.entries() if spec.construct is imported), None)
    if registered is None and isinstance(imported, type) and issubclass(imported, Classifier):
        shape = getattr(imported, "input_shape", None)
        return ModelSpec(imported.__name__, shape, imported.__module__, imported) if shape else None
    return registered


MODELS: Registry[ModelSpec] = Registry(
    "model",
    "fedinverse.models",
    "a network made with @register (or a subclass of Classifier with an input_shape); any other torch.nn.Module needs "
    "its image shape said: package.module:Net?shape=3,32,32",
    _spec,
)


def register(
    name: str, input_shape: tuple[int, int, int], source: str
) -> Callable[[Callable[[int, float], Classifier]], Callable[[int, float], Classifier]]:
    """Register a constructor ``(classes, width) -> Classifier`` under ``name``."""

    def wrap(construct: Callable[[int, float], Classifier]) -> Callable[[int, float], Classifier]:
        MODELS.register(name, ModelSpec(name, input_shape, source, construct), construct.__module__)
        return construct

    return wrap


def scaled(channels: int, width: float) -> int:
    """Return ``channels * width`` rounded to an integer of at least 4."""
    return max(4, round(channels * width))


def conv_block(fan_in: int, fan_out: int, kernel: int, padding: int = 0, pool: bool = False) -> nn.Sequential:
    """Convolution, BatchNorm, optional 2x2 max-pooling, LeakyReLU(.2): the block of MCNN and SCNN.

    Published is LeakyReLU before the pooling. It is increasing, so that the order makes no difference but a quarter of
    the work.
    """
    pooling = [nn.MaxPool2d(2)] if pool else []
    return nn.Sequential(
        nn.Conv2d(fan_in, fan_out, kernel, padding=padding),
        nn.BatchNorm2d(fan_out),
        *pooling,
        nn.LeakyReLU(0.2),
    )


def whole_conv_block(fan_in: int, fan_out: int, kernel: int) -> nn.Sequential:
    """Return ``conv_block`` for features exactly as large as the kernel."""
    return nn.Sequential(WholeConv2d(fan_in, fan_out, kernel), nn.BatchNorm2d(fan_out), nn.LeakyReLU(0.2))


def he_init(model: nn.Module) -> None:
    """Initialise convolutions by He's normal rule over the fan-out, as torchvision does; biases at zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def projection(fan_in: int, fan_out: int, stride: int) -> nn.Sequential:
    """Return the shortcut of a residual unit that changes shape: sampling, 1x1 convolution, BatchNorm.

    Sampling every ``stride``-th pixel before a 1x1 convolution is what its stride does. It is a layer of its
    own because the strided 1x1 convolution of few channels (under 8 or 16, by processor), channels-last on
    the CPU, writes past its workspace when it computes the gradient of its weights: a crash or a wrong
    gradient in narrow networks (oneDNN issue 6035, open; seen here with torch 2.15).
    """
    return nn.Sequential(nn.AvgPool2d(1, stride), nn.Conv2d(fan_in, fan_out, 1, bias=False), nn.BatchNorm2d(fan_out))
