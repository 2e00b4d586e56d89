"""What a comparison says of each group alone: the scores of its seeds are one table, judged as one audit of several."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from auditor.arms import ONCE
from auditor.omitted import Omitted
from auditor.settings import Primary
from auditor.verdict import Missing, Point, Verdict
from fedinverse.errors import ConfigError
from report.comparison.groups import Group
from report.comparison.records import Record


@dataclass(frozen=True)
class Spread:
    """A figure of whole runs: mean over seeds, and its smallest and largest value."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class GroupFigures:
    """One group.

    Attributes:
        verdict: over all its seeds.
        main: the verdict's primary attack and round.
        accuracy: of the attacked model on all reserve images, in [0, 1].
        victim_accuracy: the same on the victim's classes.
        seconds_per_round: wall seconds of one federation round.
        epsilon: largest that any client spent by its own noise.
        central_epsilon: the same by the server's noise.
        bound: what canaries show the victim's epsilon to be at least.
    """

    group: Group
    verdict: Verdict
    main: Point
    scores: pd.DataFrame
    accuracy: Spread
    victim_accuracy: Spread
    seconds_per_round: Spread | Omitted
    epsilon: Spread | Omitted
    central_epsilon: Spread | Omitted
    bound: Spread | Omitted


def figures_of(group: Group, scores: pd.DataFrame, verdict: Verdict) -> GroupFigures:
    """Return the figures of one group, whose ``scores`` the auditor judged by ``verdict``."""
    attacked = [record.rounds[record.primary.round] for record in group.records]
    return GroupFigures(
        group,
        verdict,
        verdict.main,
        scores,
        _spread([line.accuracy for line in attacked]),
        _spread([line.figures["victim-accuracy"] for line in attacked]),
        _spread_of([record.seconds_per_round for record in group.records]),
        _spread_of([record.epsilon("own") for record in group.records]),
        _spread_of([record.epsilon("central") for record in group.records]),
        _spread_of([record.bound for record in group.records]),
    )


def pooled(records: Sequence[Record]) -> tuple[pd.DataFrame, Primary]:
    """Return all scores in one table, and what is primary in it.

    Runs whose primary rounds differ ("the last one captured" need not be the same) keep that round alone, under the
    number of the latest.
    """
    primary = max((record.primary for record in records), key=lambda each: each.round)
    tables = [record.scores for record in records]
    if len({record.primary.round for record in records}) > 1:
        tables = [_only_primary(record, primary.round) for record in records]
    return pd.concat(tables, ignore_index=True), primary


def _only_primary(record: Record, called: int) -> pd.DataFrame:
    scores, primary = record.scores, record.primary
    mine = scores[scores["attack"].isin([primary.attack, ""])]
    roundless = mine["arm"].isin(ONCE)
    return mine[roundless | (mine["round"] == primary.round)].assign(round=called)


def time_to_leak(figures: GroupFigures) -> int | Omitted:
    """Return the first round at which the primary attack leaks, after Holm over its rounds."""
    first = figures.verdict.time_to_leak[figures.verdict.primary.attack]
    return Omitted(first.omitted) if isinstance(first, Missing) else first


def score_of(figures: GroupFigures, metric: str, arm: str = "A") -> Spread | Omitted:
    """Return the mean of ``metric`` over the victim's classes at the primary attack and round, by seed."""
    scores, primary = figures.scores, figures.verdict.primary
    at_primary = (scores["attack"] == primary.attack) & (scores["round"] == primary.round)
    mine = scores[(scores["metric"] == metric) & (scores["arm"] == arm) & at_primary]
    if mine.empty:
        return Omitted(f"'{metric}' was not scored")
    return _spread([float(each) for each in mine.groupby("seed")["value"].mean()])


def baseline_of(figures: Sequence[GroupFigures], label: str) -> GroupFigures:
    """Return the group called ``label``; empty: the first.

    Raises:
        ConfigError: there is no such group; names those there are.
    """
    if not label:
        return figures[0]
    for each in figures:
        if each.group.label == label:
            return each
    raise ConfigError(f"--baseline '{label}' is no group; the groups are: {'; '.join(f.group.label for f in figures)}")


def _spread_of(values: Sequence[float | Omitted]) -> Spread | Omitted:
    for value in values:
        if isinstance(value, Omitted):
            return value
    return _spread([value for value in values if not isinstance(value, Omitted)])


def _spread(values: Sequence[float]) -> Spread:
    return Spread(mean_of(values), min(values), max(values))


def mean_of(values: Sequence[float]) -> float:
    """Return the mean."""
    return float(np.mean(values))
