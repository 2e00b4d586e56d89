"""Who takes part in a round: sampled by partition id from a seeded stream, the same on every engine.

Flower samples random node ids with the global random state; node ids differ from run to run. Here the nodes say once
which partition they are, and rounds are drawn by partition.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from fedinverse.config import Section
from fedinverse.seeds import numpy_generator


class Participation(Section):
    """Participation policy."""

    fraction_train: float = Field(0.5, gt=0, le=1, description="share C of the clients that train in a round")
    fraction_evaluate: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share that evaluates the new model; Flower's default 1.0 sends it to everyone",
    )
    policy: Literal["sampled", "every_round"] = Field(
        "sampled",
        description="sampled: realistic; every_round: the always_train clients train in every round (an upper bound)",
    )
    always_train: tuple[int, ...] = Field((), description="every_round: partition ids that train in every round")


@dataclass(frozen=True)
class Selection:
    """Draws the participants of a round.

    Attributes:
        partitions: node id -> partition id of the connected nodes.
        absent: partition ids that are drawn like all others and then take no part.
    """

    participation: Participation
    seed: int
    partitions: Mapping[int, int]
    absent: frozenset[int] = frozenset()
    _nodes: dict[int, int] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._nodes.update({partition: node for node, partition in self.partitions.items()})

    @staticmethod
    def count(fraction: float, clients: int, always: int = 0) -> int:
        """Return how many of ``clients`` take part when ``fraction`` of them, and ``always``, shall."""
        return max(1, always, round(fraction * clients))

    def train(self, server_round: int) -> list[int]:
        """Return the node ids that train in ``server_round``, in the order of their partitions."""
        policy = self.participation
        always = policy.always_train if policy.policy == "every_round" else ()
        return self._draw("train", server_round, policy.fraction_train, [p for p in always if p in self._nodes])

    def evaluate(self, server_round: int) -> list[int]:
        """Return the node ids that evaluate after ``server_round``, in the order of their partitions."""
        if self.participation.fraction_evaluate == 0:
            return []
        return self._draw("evaluate", server_round, self.participation.fraction_evaluate, [])

    def _draw(self, purpose: str, server_round: int, fraction: float, always: list[int]) -> list[int]:
        everyone = sorted(self._nodes)
        count = self.count(fraction, len(everyone), len(always))
        rest = [partition for partition in everyone if partition not in always]
        drawn = numpy_generator(self.seed, "participation", purpose, server_round).permutation(rest)
        order = [*always, *map(int, drawn)]
        chosen = [partition for partition in order[:count] if partition not in self.absent]
        if not chosen:  # the absent alone were drawn: whoever is next
            chosen = [partition for partition in order if partition not in self.absent][:1]
        return [self._nodes[partition] for partition in sorted(chosen)]
