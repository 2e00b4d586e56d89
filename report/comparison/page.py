"""Fills the comparison's page and writes the same tables as Markdown; it draws no conclusion of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from report.comparison.differences import differences
from report.comparison.figures import GroupFigures, baseline_of
from report.comparison.findings import findings_of, findings_of_matched
from report.comparison.groups import Group, key_and_value, marks_of_groups
from report.comparison.matched import matched
from report.comparison.pictures import attacked_rounds, curves_svg, ladder_svg, plane_svg
from report.comparison.tables import tables_of
from report.comparison.tidy import tidy
from report.table import Table
from report.template import filled


@dataclass(frozen=True)
class Page:
    """What the page shows.

    Attributes:
        findings: one sentence per group.
        marks: what a reader must know before believing them.
        plane: leakage against utility, an ``<svg>`` element.
        rounds: those whose leakage is drawn.
        curves: leakage against these rounds, or bars if it is one; an ``<svg>`` element.
        ladder: the same attack with different public images, an ``<svg>`` element; empty: they are the same.
        varying: (group, what it is configured with) pairs.
        runs: (group, paths of its run directories) pairs.
    """

    title: str
    findings: list[str]
    marks: list[str]
    plane: str
    rounds: tuple[int, ...]
    curves: str
    ladder: str
    tables: list[Table]
    varying: list[tuple[str, str]]
    runs: list[tuple[str, str]]


def render(page: Page) -> str:
    """Return the page as one HTML text with every picture inside it."""
    return filled(Path(__file__).with_name("compare.html"), p=page)


def markdown(page: Page) -> str:
    """Return findings and tables as Markdown, to be included in a document as they are."""
    parts = ["\n".join(f"- {finding}" for finding in page.findings)]
    for table in page.tables:
        parts += [f"**{_cell(table.caption)}**", _markdown(table.header, table.rows)]
        if table.notes:
            parts.append("\n".join(f"- {note}" for note in table.notes))
    if page.marks:
        parts.append("\n".join(f"- Note: {mark}" for mark in page.marks))
    return "\n\n".join(parts) + "\n"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruler = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in (header, ruler, *rows))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


@dataclass(frozen=True)
class Comparison:
    """A comparison.

    Attributes:
        table: every figure, tidy; see ``report.comparison.tidy``.
    """

    page: Page
    table: pd.DataFrame


def compared(figures: Sequence[GroupFigures], title: str, baseline: str = "") -> Comparison:
    """Compare groups of audited runs.

    Args:
        figures: of at least one group.
        baseline: label of the group the others are held against; empty: the first.

    Raises:
        ConfigError: an unknown baseline.
    """
    groups = [each.group for each in figures]
    base = baseline_of(figures, baseline)
    apart = differences(figures, base)
    equal = matched(figures)
    page = Page(
        title,
        [*findings_of(figures, apart, base), *findings_of_matched(equal)],
        marks_of_groups(groups),
        plane_svg(figures),
        attacked_rounds(figures),
        curves_svg(figures),
        ladder_svg(figures),
        tables_of(figures, apart, base.group.label, equal),
        [(group.label, _values(group)) for group in groups],
        [(group.label, ", ".join(record.name for record in group.records)) for group in groups],
    )
    return Comparison(page, tidy(figures, apart, base.group.label, equal))


def _values(group: Group) -> str:
    values = "; ".join(key_and_value(key, value) for key, value in group.values.items())
    return values or f"nothing but the seeds: {', '.join(map(str, group.seeds))}"
