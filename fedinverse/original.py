"""Checkpoint names of the original FedInverse: ``mnist_MCNN_idd[1]_R[1]_C[0.1]_E[1]_B[10]_Acc[83.34].tar``.

Data set, network, whether the partition was IID, round, share of clients per round, local epochs, batch size, accuracy
in percent. CelebA's accuracies were multiplied by 100 once more before they were cut to five characters:
``Acc[6725.]`` is 67.25 %.
"""

import re
from dataclasses import dataclass

from fedinverse.errors import ConfigError

# Networks and data sets as the original calls them, and what they are called here.
NETWORKS = {"MCNN": "mcnn", "LeNet5": "lenet5", "VGG16": "vgg16", "ResNet": "resnet18"}
DATA_SETS = {"mnist": "mnist04", "celeba": "celeba", "cifar": "cifar10"}

_NAME = re.compile(
    r"(?P<data>[^_]+)_(?P<network>\w+?)_idd\[(?P<iid>[01])\]_R\[(?P<round>\d+)\]_C\[(?P<fraction>[\d.]+)\]"
    r"_E\[(?P<epochs>\d+)\]_B\[(?P<batch>-?\d+)\]_Acc\[(?P<accuracy>[\d.]+)\](\.\w+)*"
)
_CUT = 5  # characters of the accuracy


@dataclass(frozen=True)
class OriginalName:
    """What the name of a checkpoint says.

    Attributes:
        data: data set as the original calls it.
        network: network as the original calls it.
        iid: whether the partition was IID.
        round: the model is that after this round, from 1.
        fraction: share C of the clients that trained in a round.
        epochs: local epochs E.
        batch_size: local batch size B.
        accuracy: on the test set, in [0, 1].
    """

    data: str
    network: str
    iid: bool
    round: int
    fraction: float
    epochs: int
    batch_size: int
    accuracy: float

    @staticmethod
    def matches(name: str) -> bool:
        """Return whether ``name`` has the form."""
        return _NAME.fullmatch(name) is not None

    @classmethod
    def parse(cls, name: str) -> "OriginalName":
        """Return what ``name`` says, whatever its suffix; ``ConfigError`` for a name of another form."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise ConfigError(
                f"'{name}' is no checkpoint name of the original FedInverse, like "
                "'mnist_MCNN_idd[1]_R[1]_C[0.1]_E[1]_B[10]_Acc[83.34].tar'"
            )
        percent = float(match["accuracy"])
        return cls(
            match["data"],
            match["network"],
            match["iid"] == "1",
            int(match["round"]),
            float(match["fraction"]),
            int(match["epochs"]),
            int(match["batch"]),
            percent / (10_000 if percent > 100 else 100),
        )

    def format(self, suffix: str = ".tar") -> str:
        """Return the name as the original writes it."""
        return (
            f"{self.data}_{self.network}_idd[{int(self.iid)}]_R[{self.round}]_C[{self.fraction}]_E[{self.epochs}]"
            f"_B[{self.batch_size}]_Acc[{str(self.accuracy * 100)[:_CUT]}]{suffix}"
        )
