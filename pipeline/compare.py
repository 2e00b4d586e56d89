"""Compares finished runs: finds them, has the auditor compare them, writes and prints what it says."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from auditor.judgement import judge
from fedinverse.errors import ConfigError, StageError
from fedinverse.layout import COMPARISON_PAGE, COMPARISON_TABLE, SWEEP, is_run
from fedinverse.run import Run
from fedinverse.storage import atomic_write, read_json
from report.comparison import Comparison, Record, compared, markdown, render
from report.comparison.figures import GroupFigures, figures_of, mean_of, pooled
from report.comparison.groups import Group, grouped
from report.comparison.records import Rank
from report.console import bullets, echo, show_table


def compare_runs(paths: Sequence[Path], out: Path, by: Sequence[str] = (), baseline: str = "") -> Path:
    """Compare the runs, and the sweeps' finished points, in ``paths``; write page and tables into ``out``.

    Returns:
        The page; beside it ``compare.md``, ``compare.csv`` and ``compare.parquet``.

    Raises:
        ConfigError: no such run, or runs that cannot be compared.
        StageError: a run that was not audited.
    """
    records = [record for path in paths for record in _records(path)]
    if not baseline and not by and len(paths) == 1:
        baseline = _own_baseline(paths[0], records)
    named = [path.resolve().name for path in paths[:4]]
    if len(paths) > len(named):
        named.append(f"{len(paths) - len(named)} more")
    comparison = compare(records, " · ".join(named), by, baseline)
    atomic_write(out / COMPARISON_TABLE, comparison.table.to_parquet(index=False))
    atomic_write((out / COMPARISON_TABLE).with_suffix(".csv"), comparison.table.to_csv(index=False))
    atomic_write(out / "compare.md", markdown(comparison.page))
    atomic_write(out / COMPARISON_PAGE, render(comparison.page))  # last
    page = comparison.page
    for finding in page.findings:
        echo(finding)
    bullets(page.marks)
    for each in page.tables:
        show_table(each)
    return out / COMPARISON_PAGE


def compare(records: Sequence[Record], title: str, by: Sequence[str] = (), baseline: str = "") -> Comparison:
    """Compare audited runs.

    Args:
        by: configuration keys to group by; empty: all that vary.
        baseline: label of the group the others are held against; empty: the first.

    Raises:
        ConfigError: runs that cannot be compared, or an unknown key or baseline.
        StageError: a run that was not audited.
    """
    return compared([judged(group) for group in grouped(records, by)], title, baseline)


def judged(group: Group) -> GroupFigures:
    """Return the figures of one group, its seeds judged together.

    Raises:
        StageError: a run was not audited.
    """
    records = group.records
    scores, primary = pooled(records)
    rounds = set.intersection(*(set(record.rounds) for record in records))
    known = {number: mean_of([r.rounds[number].figures["victim-accuracy"] for r in records]) for number in rounds}
    classes = len(next(iter(records[0].rounds.values())).class_accuracy)
    return figures_of(group, scores, judge(scores, primary, known, classes=classes))


def _records(path: Path) -> Iterator[Record]:
    index = path / SWEEP
    if index.exists():
        finished = [point for point in read_json(index)["points"] if point["state"] == "finished"]
        if not finished:
            raise StageError(f"{path}: no point of this sweep is finished; continue it with --resume")
        for point in finished:
            rank = Rank(**point["rank"]) if point.get("rank") else None  # sweeps of earlier versions name none
            yield Record(Run((path / point["run"]).resolve()), point["label"], rank)
    elif is_run(path):
        yield Record(Run(path.resolve()))
    else:
        raise ConfigError(f"{path} is neither a run directory nor a sweep's: it has no config.json and no sweep.json")


def _own_baseline(path: Path, records: Sequence[Record]) -> str:
    """Return the baseline that a sweep's file names, if a point of it is finished."""
    index = path / SWEEP
    named = str(read_json(index)["baseline"]) if index.exists() else ""
    return named if any(record.label == named for record in records) else ""
