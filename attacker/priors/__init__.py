"""Priors over natural images: what an attacker can make of public images before it sees a target."""

from attacker.priors.prior import Prior, cached

__all__ = ["Prior", "cached"]
