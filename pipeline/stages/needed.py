"""Which global models a run still needs once the federation has gone on: those that an inversion will read.

In the world with the victim the attacker inverts what it captured; the server's own models of the rounds that its
schedule names are kept beside them. The world without the victim runs afterwards: its models of the rounds that were
captured and are due are the targets of control B2.
"""

from dataclasses import dataclass
from functools import cached_property

from attacker.schedule import captured, due, earlier_rounds
from attacker.settings import Attacker
from fedinverse.client_data import pooled_shard
from fedinverse.layout import World, is_control, spools_of
from fedinverse.run import Run


@dataclass(frozen=True)
class InvertedRounds:
    """The rule for ``fedinverse.rounds.Thinning``."""

    run: Run

    def __call__(self, world: World, server_round: int) -> bool:
        """Return whether an inversion will read the model of ``world`` after ``server_round``.

        Raises:
            StageError: the attacker was not sent a model that its schedule lists.
        """
        if not self.run.table.get("attacks"):
            return False
        return server_round in self._due if is_control(world) else named(self._attacker, server_round)

    @cached_property
    def _attacker(self) -> Attacker:
        return self.run.section("attacker", Attacker)

    @cached_property
    def _due(self) -> frozenset[int]:
        """The rounds that are due, and those whose models are inverted together with them."""
        shard = pooled_shard(self.run)
        first, *others = spools = spools_of(self.run.files.attacker, "with_victim")
        rounds = due(first, self._attacker, shard, pooled=others)
        most, models = self._captures, captured(*spools)
        return frozenset(rounds).union(*(earlier_rounds(models, number, most) for number in rounds))

    @property
    def _captures(self) -> int:
        """The most captures that an attack inverts together."""
        attacks: dict[str, dict[str, int]] = self.run.table.get("attacks", {})
        return max(int(table.get("captures", 1)) for table in attacks.values())


def named(attacker: Attacker, server_round: int) -> bool:
    """Return whether the schedule names ``server_round`` whatever is captured: ``last`` and ``new_best`` name none."""
    if isinstance(attacker.rounds, tuple):
        return server_round in attacker.rounds
    return attacker.rounds == "every" and server_round % attacker.every_nth == 0
