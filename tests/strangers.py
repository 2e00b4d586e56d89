"""Networks as strangers write them: none knows of FedInverse."""

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def body(channels: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 5, stride=2), nn.ReLU())


class Quickstart(nn.Module):
    """The shape of Flower's own first example: flattens by view, which channels-last features do not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2 = nn.Linear(16 * 5 * 5, 20), nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.view(-1, 16 * 5 * 5))))


class Grey(Quickstart):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1, self.fc1 = nn.Conv2d(1, 6, 5), nn.Linear(16 * 4 * 4, 20)
        self.fc2 = nn.Linear(20, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.view(-1, 16 * 4 * 4))))


class Base(nn.Module):
    """A body, a mean over the places, a linear head."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.body, self.head = body(channels), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x).mean((2, 3)))


class Buffers(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("mask", torch.ones(8, dtype=torch.bool))
        self.register_buffer("empty", torch.zeros(0))
        self.register_buffer("scale", torch.tensor(2.0, dtype=torch.double))
        self.register_buffer("bytes", torch.zeros(4, dtype=torch.uint8))
        self.register_buffer("hidden", torch.zeros(3), persistent=False)


class Tied(Base):
    """One convolution under two names."""

    def __init__(self) -> None:
        super().__init__()
        conv = nn.Conv2d(8, 8, 3, padding=1)
        self.body = nn.Sequential(*body()[:2], nn.Sequential(conv, nn.ReLU()), nn.Sequential(conv, nn.ReLU()))


class Half(Base):
    def __init__(self) -> None:
        super().__init__()
        self.half()


class BFloat(Base):
    def __init__(self) -> None:
        super().__init__()
        self.bfloat16()


class Double(Base):
    def __init__(self) -> None:
        super().__init__()
        self.double()


class Group(Base):
    """No BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*body()[:2], nn.GroupNorm(2, 8), *body()[2:])


class Batch(Base):
    """BatchNorm in every way that cannot simply be folded, and one that can."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=2), nn.BatchNorm2d(8), nn.ReLU(),
            nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 3)), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU(),
            Standardised(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        )  # fmt: skip


class Standardised(nn.Conv2d):
    """A convolution whose forward changes its weights first."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias)


class Lazy(Base):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.LazyLinear(10)


class Dictionary(Base):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": torch.zeros(()), "logits": super().forward(x)}


class Hugging(Base):
    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=super().forward(pixel_values), hidden_states=None)


class Pair(Base):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x), self.body(x)


class Probable(Base):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class Aided(Base):
    """A second head, used last."""

    def __init__(self) -> None:
        super().__init__()
        self.helper = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x), self.helper(self.body(x).mean((2, 3)))


class Odd(Base):
    """Returns what only its author can read."""

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        return {"scores": [super().forward(x)]}


def scores(answer: dict[str, list[Tensor]]) -> Tensor:
    return answer["scores"][0]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.norm, self.head = nn.LSTM(96, 16, batch_first=True), nn.LayerNorm(16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.rnn(x.permute(0, 2, 1, 3).flatten(2))[0][:, -1]))


class Convolved(nn.Module):
    """No linear layer at all."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = body(), nn.Conv2d(8, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x)).mean((2, 3))


class Renormed(Base):
    """The old weight_norm: its weights are made by a hook of two others."""

    def __init__(self) -> None:
        super().__init__()
        nn.utils.weight_norm(self.head)


class Broken(Base):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("labels")


def squared(x: Tensor) -> Tensor:
    return x.square()


def out_of_order() -> nn.Module:
    raise RuntimeError("out of order")
