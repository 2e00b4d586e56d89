"""Shared kernel of FedInverse: everything the roles have in common, and no role.

Roles (``server``, ``clients``, ``attacker``, ``auditor``) import from here; nothing here imports a role.
"""

from fedinverse.house import open_rooms

__version__ = "0.1.0"

open_rooms()
