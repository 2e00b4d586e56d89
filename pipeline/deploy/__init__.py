"""A federation of real processes: a SuperLink, SuperNodes with their own data, TLS and node authentication.

Everything here runs plain Flower commands (``commands.py``) and could be typed by hand; ``docs/deployment.md`` does.
"""
