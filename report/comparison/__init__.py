"""Comparing audited runs: groups of seeds, paired differences, the leakage-utility plane, one page."""

from report.comparison.page import Comparison, Page, compared, markdown, render
from report.comparison.records import Record
from report.table import Table

__all__ = ["Comparison", "Page", "Record", "Table", "compared", "markdown", "render"]
