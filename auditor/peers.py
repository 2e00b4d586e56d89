"""The images that a victim's are held against where they share their classes: other clients', and nobody's."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedinverse.seeds import generator


@dataclass(frozen=True)
class Side:
    """Real images in E2's features [N, F], with their classes int64 [N]."""

    features: Tensor
    labels: Tensor

    def rows(self, chosen: Tensor) -> "Side":
        """Return the images in these rows, or where ``chosen`` is True."""
        return Side(self.features[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Peers:
    """Images of the victim's classes by who holds them.

    Attributes:
        held: all at other clients who are not the attacker.
        victim: of every class that has images of all three kinds, some or all that the victim alone holds.
        others: as many of every class out of ``held``.
        nobody: as many of every class out of the reserve.
        chance: [R, F], all reserve images of the victim's classes: how near an image comes by chance.
        not_drawn: [R, F], those of them that are not among ``nobody``.
    """

    held: Side
    victim: Side
    others: Side
    nobody: Side
    chance: Tensor
    not_drawn: Tensor


def peers_of(victim: Side, held: Side, reserve: Side, seed: int) -> Peers:
    """Draw equally many images of every class from the three sets, as many as the smallest has.

    Of the reserve at most half is drawn, so that as many stay to know chance by.

    Args:
        victim: what the victim alone holds.
        held: what other clients hold.
        reserve: what nobody holds, of all classes.
        seed: run seed.
    """
    drawn: dict[str, list[Tensor]] = {"victim": [], "others": [], "nobody": []}
    sets = {"victim": victim, "others": held, "nobody": reserve}
    for label in torch.unique(victim.labels).tolist():
        rows = {name: (side.labels == label).nonzero().flatten() for name, side in sets.items()}
        count = min(len(rows["victim"]), len(rows["others"]), len(rows["nobody"]) // 2)
        for name, mine in rows.items():
            random = generator(seed, "peers", name, label)
            drawn[name].append(mine[torch.randperm(len(mine), generator=random)[:count]].sort().values)
    rows = {name: torch.cat(each) for name, each in drawn.items()}
    of_victims = torch.isin(reserve.labels, victim.labels.unique())
    left = of_victims.clone()
    left[rows["nobody"]] = False
    return Peers(
        held,
        victim.rows(rows["victim"]),
        held.rows(rows["others"]),
        reserve.rows(rows["nobody"]),
        reserve.features[of_victims],
        reserve.features[left],
    )
