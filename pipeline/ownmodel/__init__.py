"""``fedinverse audit-model``: one weights file, audited with the private images at hand, without a federation.

What comes out is an ordinary run directory (``prepare.py``), which the ordinary stages read (``audit.py``). The file
stands in it for the one model that was captured. There is no attacker's shard and no federation without the victim, so
that arms B3 and B2 cannot be; the prior alone (B0), the untrained network (B1), public images that the model is surest
of (B4), wrong labels (B5), images optimised without a prior (T1) and real images (CEIL) are.
"""
