"""Client-side defences by name, one file each: ``make_defence("bido_hsic", {...}, origin)``."""

from clients.defences import bido, dp_sgd, mid, mid_coco, neg_label_smoothing, tl, update_noise, update_pruning  # noqa: F401 - registers them
from clients.defences.defence import Defence, defence_class, defence_names, make_defence

__all__ = ["Defence", "defence_class", "defence_names", "make_defence"]
