"""The server's section of the configuration."""

from typing import Any

from pydantic import Field

from strategies import Participation


class Federation(Participation):
    """Rounds, strategy and participation."""

    rounds: int = Field(10, ge=1, description="number of rounds R")
    strategy: str = Field("fedavg", description="Flower strategy: see 'fedinverse strategies'")
    options: dict[str, Any] = Field(
        default_factory=dict, description="the strategy's own options, as Flower names them"
    )
    timeout: float = Field(600.0, gt=0, description="seconds to wait for the replies of a round")
