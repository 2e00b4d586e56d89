"""Every attack by name. Importing this module registers them; ``attacker.attack`` alone stays light."""

from attacker import gmi, ifgmi, kedmi, plgmi, vmi  # noqa: F401 - registers them
from attacker.attack import attack_names, make_attack

__all__ = ["attack_names", "make_attack"]
