"""What the configuration says of aggregation: the strategy, its averaging, noise and secure aggregation."""

from typing import Any, Literal

from pydantic import Field

from strategies.central_privacy import CentralPrivacy
from strategies.participation import Participation, Selection
from strategies.secure_aggregation import SecureAggregation


class Aggregation(Participation):
    """Flower strategy and what is put around it."""

    strategy: str = Field("fedavg", description="Flower strategy: see 'fedinverse names', or package.module:Name")
    options: dict[str, Any] = Field(
        default_factory=dict, description="the strategy's own options, as Flower names them"
    )
    averaging: Literal["weighted", "unweighted"] = Field(
        "weighted", description="a client's weight in an average: its number of images, or the same for all"
    )
    max_update_norm: float = Field(
        1000.0,
        ge=0,
        description="refuse an update longer than this many times the round's median (L2 norm); 0: any length",
    )
    watch_updates: bool = Field(
        False,
        description="note what a server can see of every update: length, direction, and whether Krum, a median or a "
        "trimmed mean would have dropped it",
    )
    privacy: CentralPrivacy = CentralPrivacy()
    secure_aggregation: SecureAggregation = SecureAggregation()

    def participants(self, clients: int) -> int:
        """Return how many of ``clients`` train in a round."""
        always = len(self.always_train) if self.policy == "every_round" else 0
        return Selection.count(self.fraction_train, clients, always)
