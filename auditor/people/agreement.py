"""Agreement of judges beyond chance, on nominal answers: Cohen's kappa of two, Krippendorff's alpha of any number.

Sources: Cohen, Educational and Psychological Measurement 20 (1960); Krippendorff, "Computing Krippendorff's
Alpha-Reliability" (2011), nominal difference function. 1: they always agree; 0: as often as chance; below 0: less.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from auditor.omitted import Omitted
from auditor.statistics import LEVEL

Answers = NDArray[np.int64]
MISSING = -1
DRAWS = 1000  # of the bootstrap over items


def cohens_kappa(answers: Answers, categories: int) -> float | Omitted:
    """Return kappa of two judges.

    Args:
        answers: int [2, N], categories from 0; -1: not answered. Items that one of them left out do not count.
        categories: how many there are.
    """
    both = answers[:, (answers != MISSING).all(0)]
    if not both.size:
        return Omitted("no item was answered by both judges")
    table = np.zeros((categories, categories))
    np.add.at(table, (both[0], both[1]), 1)
    table /= table.sum()
    expected = float(table.sum(0) @ table.sum(1))
    if expected == 1:
        return Omitted("both judges gave one and the same answer to everything: there is no chance to correct for")
    return (float(np.trace(table)) - expected) / (1 - expected)


def krippendorffs_alpha(answers: Answers, categories: int) -> float | Omitted:
    """Return alpha of two or more judges.

    Args:
        answers: int [J, N], categories from 0; -1: not answered. Items with one answer do not count.
        categories: how many there are.
    """
    counts = np.stack([(answers == category).sum(0) for category in range(categories)], 1).astype(float)  # [N, C]
    per_item = counts.sum(1)
    counts, per_item = counts[per_item >= 2], per_item[per_item >= 2]
    if not len(counts):
        return Omitted("no item was answered by two judges")
    total = per_item.sum()
    same = (counts * (counts - 1)).sum(1) / (per_item - 1)
    observed = 1 - same.sum() / total
    values = counts.sum(0)
    expected = 1 - float(values @ (values - 1)) / (total * (total - 1))
    if expected == 0:
        return Omitted("all judges gave one and the same answer to everything: there is no chance to correct for")
    return float(1 - observed / expected)


def interval(
    statistic: Callable[[Answers, int], float | Omitted], answers: Answers, categories: int, random: np.random.Generator
) -> tuple[float, float] | Omitted:
    """Return the 95 % percentile interval of ``statistic`` over items drawn anew, all judges' answers together."""
    items = answers.shape[1]
    drawn = [statistic(answers[:, random.integers(items, size=items)], categories) for _ in range(DRAWS)]
    values = [each for each in drawn if not isinstance(each, Omitted)]
    if len(values) < DRAWS / 2:
        return Omitted("too few items to say how sure the agreement is")
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
