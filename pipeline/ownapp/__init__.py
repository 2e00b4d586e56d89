"""Auditing a Flower app that we did not write: ``fedinverse audit-app PATH`` and its ``audit.toml``.

Their ServerApp and ClientApp run unchanged in a process of their own (``federation.py``), between a Grid that keeps the
ledger and hides the victim's node in the control world (``grid.py``) and a wrapper that captures at the attacker's node
(``client.py``). What comes out is an ordinary run directory (``prepare.py``), which the ordinary stages read.
"""
