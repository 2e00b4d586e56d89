"""From the figures of groups to a comparison: everything that is shown of it, in one place."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from report.comparison.differences import differences
from report.comparison.figures import GroupFigures, baseline_of
from report.comparison.findings import findings_of, findings_of_matched
from report.comparison.groups import Group, marks_of_groups
from report.comparison.labels import key_and_value
from report.comparison.matched import matched
from report.comparison.page import Page
from report.comparison.pictures import attacked_rounds, curves_svg, ladder_svg, plane_svg
from report.comparison.tables import tables_of
from report.comparison.tidy import tidy


@dataclass(frozen=True)
class Comparison:
    """A comparison.

    Attributes:
        page: what is shown.
        table: every figure, tidy; see ``report.comparison.tidy``.
    """

    page: Page
    table: pd.DataFrame


def compared(figures: Sequence[GroupFigures], title: str, baseline: str = "") -> Comparison:
    """Compare groups of audited runs.

    Args:
        figures: of at least one group.
        title: what the page is called.
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
