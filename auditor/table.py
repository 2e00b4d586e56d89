"""Reads one score of one arm out of the tidy score table, as cells for the statistics.

The table has one row per seed x world x round x arm x attack x class x metric; see ``COLUMNS``. ``auditor.arms`` says
in which world an arm lives, and which arms do not depend on the round they are compared with: those may stand in the
table once, at any round. CEIL may also stand there once for all attacks, under an empty attack. There may be several
control worlds (``without_victim``, ``without_victim-1`` ...): an arm of theirs is their mean, cell by cell.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from auditor.arms import ARMS, ONCE
from auditor.omitted import Omitted
from auditor.settings import Primary
from auditor.statistics import Cells
from fedinverse.errors import ConfigError, DataError, IntegrityError
from fedinverse.layout import is_control
from fedinverse.storage import check_regular

COLUMNS = ("seed", "world", "round", "arm", "attack", "label", "metric", "value", "count")
EVERY_ATTACK = ""


def check_table(scores: pd.DataFrame) -> None:
    """Refuse a table that cannot be read without guessing.

    Raises:
        DataError: a column is missing, an arm is unknown, a value is infinite, or a cell has two rows; names
            it.
    """
    missing = [column for column in COLUMNS if column not in scores.columns]
    if missing:
        raise DataError(f"the score table has no column {', '.join(missing)}")
    unknown = sorted(set(scores["arm"]) - set(ARMS))
    if unknown:
        raise DataError(f"the score table names the arm {', '.join(unknown)}; known: {', '.join(ARMS)}")
    if np.isinf(scores["value"].to_numpy(float)).any():
        raise DataError("the score table holds an infinite value; leave out what could not be scored")
    keys = [column for column in COLUMNS if column not in ("value", "count")]
    twice = scores.duplicated(keys)
    if twice.any():
        row = ", ".join(f"{key} {value}" for key, value in scores.loc[twice, keys].iloc[0].items())
        raise DataError(f"the score table holds two rows for {row}")


def read_scores(path: Path) -> pd.DataFrame:
    """Return the score table stored in ``path``.

    Raises:
        IntegrityError: it is no such table; names the file.
    """
    check_regular(path)
    try:
        scores = pd.read_parquet(path)
        check_table(scores)
    except (ValueError, TypeError, OSError, DataError) as error:  # pyarrow's errors are one of the first three
        raise IntegrityError(f"{path}: not a readable score table ({error}); 'fedinverse audit' remakes it") from error
    return scores


def cells(scores: pd.DataFrame, arm: str, attack: str, server_round: int, metric: str) -> Cells | Omitted:
    """Return one value per seed and class, or why there is none.

    Args:
        scores: a table that ``check_table`` accepts. Rows without a value (NaN) are left out.
        arm: see ``auditor.arms``.
        attack: label of the attack.
        server_round: round t compared.
        metric: name of the score.
    """
    here = _rows(scores, arm, attack, server_round, metric)
    if here.empty:
        return Omitted(f"arm {arm} has no {metric} for {attack} at round {server_round}")
    return _cells(here)


@dataclass(frozen=True)
class AttackCells:
    """What the table holds of one attack at one round.

    Attributes:
        attack: label of the attack.
        round: t.
        arms: the score of every arm.
        control_worlds: the score of arm B2 by control world.
        further: other metrics, by arm and metric.
    """

    attack: str
    round: int
    arms: dict[str, Cells | Omitted]
    control_worlds: dict[str, Cells]
    further: dict[tuple[str, str], Cells | Omitted]


def cells_of_attack(
    scores: pd.DataFrame, attack: str, server_round: int, metric: str, further: Iterable[tuple[str, str]]
) -> AttackCells:
    """Return the cells of every arm in ``metric``, and those of ``further`` pairs of an arm and a metric."""
    without = _rows(scores, "B2", attack, server_round, metric)
    return AttackCells(
        attack,
        server_round,
        {arm: cells(scores, arm, attack, server_round, metric) for arm in ARMS},
        {str(world): _cells(rows) for world, rows in without.groupby("world")},
        {(arm, other): cells(scores, arm, attack, server_round, other) for arm, other in further},
    )


def _rows(scores: pd.DataFrame, arm: str, attack: str, server_round: int, metric: str) -> pd.DataFrame:
    chosen = scores[(scores["arm"] == arm) & (scores["metric"] == metric) & scores["value"].notna()]
    chosen = chosen[chosen["world"].map(is_control) == ARMS[arm].lacks_victim]
    mine = chosen[chosen["attack"] == attack]
    if mine.empty and arm in ("CEIL", "T1"):
        mine = chosen[chosen["attack"] == EVERY_ATTACK]
    here = mine[mine["round"] == server_round]
    if arm in ONCE and here.empty and mine["round"].nunique() == 1:
        here = mine
    return here


def _cells(rows: pd.DataFrame) -> Cells:
    keys = ["seed", "label"]
    values = rows.groupby(keys)["value"].mean().unstack("label").sort_index().sort_index(axis=1)
    counts = rows.groupby(keys)["count"].sum().unstack("label").reindex_like(values)
    return Cells(
        values.to_numpy(np.float64),
        counts.to_numpy(np.float64),
        tuple(int(seed) for seed in values.index),
        tuple(int(label) for label in values.columns),
    )


def rounds_of(scores: pd.DataFrame, attack: str, metric: str) -> list[int]:
    """Return the rounds at which ``attack`` was run on the federation with the victim, ascending."""
    chosen = (scores["arm"] == "A") & (scores["metric"] == metric) & (scores["attack"] == attack)
    return sorted(int(each) for each in scores.loc[chosen & scores["value"].notna(), "round"].unique())


def attacks_of(scores: pd.DataFrame, metric: str) -> list[str]:
    """Return the attacks that were run, sorted."""
    return sorted(scores.loc[(scores["arm"] == "A") & (scores["metric"] == metric), "attack"].unique())


def primary_of(scores: pd.DataFrame, primary: Primary) -> tuple[str, int]:
    """Return the attack and round that the verdict speaks of.

    Raises:
        ConfigError: one of them is not in the table, or must be chosen.
    """
    attacks = attacks_of(scores, primary.metric)
    if not attacks:
        raise ConfigError(f"audit.primary.metric: no attack has a score '{primary.metric}'")
    if not primary.attack and len(attacks) > 1:
        raise ConfigError(
            f"audit.primary.attack must name one of {', '.join(attacks)}: the choice is made before the run"
        )
    attack = primary.attack or attacks[0]
    if attack not in attacks:
        raise ConfigError(f"audit.primary.attack is '{attack}'; the run has {', '.join(attacks)}")
    rounds = rounds_of(scores, attack, primary.metric)
    server_round = rounds[-1] if primary.round == -1 else primary.round
    if server_round not in rounds:
        raise ConfigError(f"audit.primary.round is {server_round}; '{attack}' was run at {', '.join(map(str, rounds))}")
    return attack, server_round
