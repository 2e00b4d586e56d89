"""No defence: plain cross-entropy training."""

from clients.defences.defence import Defence, register


@register("none")
class NoDefence(Defence):
    """The base class as it is."""
