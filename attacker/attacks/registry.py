"""Every attack by name. Importing this module registers them; ``attacker.attacks.attack`` alone stays light."""

from attacker.attacks import deepinversion, gmi, ifgmi, kedmi, plgmi, vmi  # noqa: F401 - registers them
from attacker.attacks.attack import attack_names, make_attack

__all__ = ["attack_names", "make_attack"]
