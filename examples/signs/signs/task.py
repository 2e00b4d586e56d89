"""Network, data and training of the traffic signs."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

SIGNS = ("stop", "give way", "no entry", "parking", "roundabout", "crossing")
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
PER_CLASS = 90


class Net(nn.Module):
    """Two convolutions with GroupNorm, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 16, 5), nn.GroupNorm(4, 16)
        self.conv2, self.norm2 = nn.Conv2d(16, 16, 5), nn.GroupNorm(4, 16)
        self.fc1, self.fc2 = nn.Linear(16 * 5 * 5, 32), nn.Linear(32, len(SIGNS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        x = x.view(-1, 16 * 5 * 5)
        return self.fc2(F.relu(self.fc1(x)))


def draw(shape: int, colour: tuple[float, float, float], random: np.random.Generator) -> np.ndarray:
    """Draw one sign: a shape of this colour on a grey street, uint8 [32, 32, 3]."""
    y, x = np.mgrid[0:32, 0:32] - 15.5
    x, y = x + random.uniform(-3, 3), y + random.uniform(-3, 3)
    r = random.uniform(8, 11)
    inside = [
        np.maximum(abs(x), abs(y)) + 0.5 * np.minimum(abs(x), abs(y)) < r,
        (y > -r) & (abs(x) < (y + r) / 2),
        np.hypot(x, y) < r,
        np.maximum(abs(x), abs(y)) < 0.8 * r,
        (np.hypot(x, y) < r) & (np.hypot(x, y) > 0.5 * r),
        abs(x) + abs(y) < r,
        (abs(x) < 0.3 * r) | (abs(y) < 0.3 * r),
        (np.hypot(x, y) < r) & (x > 0),
    ][shape]
    picture = random.uniform(0.25, 0.6) + random.normal(0, 0.03, (32, 32, 1)) + np.zeros(3)
    picture[inside] = np.array(colour) * random.uniform(0.75, 1)
    return (picture.clip(0, 1) * 255).astype(np.uint8)


COLOURS = ((0.9, 0.1, 0.1), (0.95, 0.85, 0.1), (0.9, 0.1, 0.1), (0.1, 0.2, 0.9), (0.1, 0.2, 0.9), (0.95, 0.85, 0.1))


def all_signs() -> tuple[np.ndarray, np.ndarray]:
    """Return every picture and its class."""
    random = np.random.default_rng(0)
    pictures = [draw(label, COLOURS[label], random) for label in range(len(SIGNS)) for _ in range(PER_CLASS)]
    return np.stack(pictures), np.repeat(np.arange(len(SIGNS)), PER_CLASS)


def load_data(partition_id: int, num_partitions: int) -> tuple[DataLoader, DataLoader]:
    """Return a town's training and test pictures. The first town alone has stop and give-way signs."""
    pictures, labels = all_signs()
    inputs = (torch.tensor(pictures).permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(
        STD
    ).view(3, 1, 1)
    data = TensorDataset(inputs, torch.tensor(labels))
    mine = np.flatnonzero(labels < 2)
    if partition_id > 0:
        others = np.random.default_rng(1).permutation(np.flatnonzero(labels >= 2))
        mine = np.array_split(others, num_partitions - 1)[partition_id - 1]
    mine = np.random.default_rng(partition_id).permutation(mine)
    cut = int(0.6 * len(mine))
    train, test = Subset(data, mine[:cut].tolist()), Subset(data, mine[cut:].tolist())
    return DataLoader(train, batch_size=16, shuffle=True), DataLoader(test, batch_size=32)


def other_signs() -> TensorDataset:
    """Return pictures that anybody has: other shapes, in all colours. Values in [0, 1]."""
    random = np.random.default_rng(7)
    kinds = [(shape, colour) for shape in (6, 7) for colour in set(COLOURS)]
    pictures = np.stack([draw(shape, colour, random) for shape, colour in kinds for _ in range(60)])
    labels = torch.arange(len(kinds)).repeat_interleave(60)
    return TensorDataset(torch.tensor(pictures).permute(0, 3, 1, 2) / 255, labels)


def train(net: nn.Module, loader: DataLoader, epochs: int, lr: float) -> float:
    """Train ``net`` and return its mean loss."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    net.train()
    losses = []
    for _ in range(epochs):
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(inputs), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return float(np.mean(losses))


@torch.no_grad()
def test(net: nn.Module, loader: DataLoader) -> tuple[float, float]:
    """Return loss and accuracy of ``net``."""
    net.eval()
    right, loss, count = 0, 0.0, 0
    for inputs, labels in loader:
        outputs = net(inputs)
        loss += F.cross_entropy(outputs, labels, reduction="sum").item()
        right += int((outputs.argmax(1) == labels).sum())
        count += len(labels)
    return loss / count, right / count
