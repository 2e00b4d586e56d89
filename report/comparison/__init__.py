"""Comparing audited runs: groups of seeds, paired differences, the leakage-utility plane, one page."""

from report.comparison.compare import Comparison, compared
from report.comparison.page import Page, markdown, render
from report.comparison.records import Record
from report.table import Table

__all__ = ["Comparison", "Page", "Record", "Table", "compared", "markdown", "render"]
