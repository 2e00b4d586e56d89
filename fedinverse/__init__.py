"""Shared kernel of FedInverse: everything the roles have in common, and no role.

Roles (``server``, ``clients``, ``attacker``, ``auditor``) import from here; nothing here imports a role.
"""

import importlib
from typing import Any

from fedinverse.house import open_rooms
from fedinverse.version import __version__

__all__ = ["__version__"]

open_rooms()

_FOR_NOTEBOOKS = (
    "audit",
    "audit_model",
    "attack",
    "capture",
)  # of pipeline.api, found by name: the kernel imports no room


def __getattr__(name: str) -> Any:
    """Return one of ``_FOR_NOTEBOOKS``; loaded when it is asked for."""
    if name in _FOR_NOTEBOOKS:
        return getattr(importlib.import_module("pipeline.api"), name)
    raise AttributeError(f"module 'fedinverse' has no attribute '{name}'")
