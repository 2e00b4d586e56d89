"""How clients train locally; the server sends it with every train message."""

from typing import Literal

from pydantic import Field

from fedinverse.config import Section


class Training(Section):
    """Hyper-parameters of local training, sent to the clients with every train message."""

    epochs: int = Field(1, ge=1, description="local epochs E")
    batch_size: int = Field(16, ge=1, description="local batch size B")
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="local optimiser, fresh every round")
    lr: float = Field(0.01, gt=0, description="learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum (sgd)")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty on the weights")
    flips: bool = Field(False, description="mirror every image with probability 1/2 each time, as is done with faces")
