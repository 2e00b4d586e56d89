"""Client-side defences by name, one file each: ``make_defence("bido_hsic", {...}, origin)``."""

from clients.defences import none  # noqa: F401 - registers it
from clients.defences.defence import Defence, defence_class, defence_names, make_defence

__all__ = ["Defence", "defence_class", "defence_names", "make_defence"]
