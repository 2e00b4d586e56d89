"""The server's section of the configuration."""

from pydantic import Field

from strategies import Aggregation


class Federation(Aggregation):
    """Rounds, strategy and participation."""

    rounds: int = Field(10, ge=1, description="number of rounds R")
    device: str = Field("cpu", description="where the server evaluates every new model: cpu, cuda, cuda:1")
    timeout: float = Field(600.0, gt=0, description="seconds to wait for the replies of a round")
