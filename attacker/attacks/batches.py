"""How an inversion is cut into batches that fit the memory budget, and what a diversity term must keep together."""

import torch
from torch import Tensor

from attacker.losses.diversity import blocks, layout
from attacker.losses.settings import InversionSettings
from fedinverse.errors import ConfigError


def row_parts(settings: InversionSettings, labels: Tensor) -> list[tuple[Tensor, int]]:
    """Cut reconstructions with ``labels`` [N] into batches.

    Returns:
        The rows of each batch and, for the grid of a diversity term, how many classes they hold, class by class.

    Raises:
        ConfigError: the diversity term couples more than fits, or classes do not occur equally often.
    """
    if not settings.diversity.active:
        return [(rows, len(rows)) for rows in torch.split(torch.arange(len(labels)), settings.fits)]
    grid = layout(labels).grid()
    cuts = blocks(settings.diversity, len(grid), grid.shape[1], settings.fits)
    return [(grid[cut].flatten(), len(grid[cut])) for cut in cuts]


def class_parts(settings: InversionSettings, classes: int) -> list[tuple[Tensor, int]]:
    """Cut ``classes`` distributions into batches; as ``row_parts``, with distributions for rows.

    Raises:
        ConfigError: the diversity term couples more than fits.
    """
    if settings.diversity.active:
        cuts = blocks(settings.diversity, classes, settings.samples, settings.fits)
        if settings.diversity.measure != "hsic" and len(cuts) > 1:
            raise ConfigError(
                f"diversity measure '{settings.diversity.measure}' couples {classes} classes with {settings.samples} "
                "draws; raise 'max_batch' to hold them"
            )
    parts = torch.split(torch.arange(classes), max(1, settings.fits // settings.samples))
    return [(part, len(part)) for part in parts]
