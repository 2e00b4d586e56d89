"""Comparing audited runs: groups of seeds, paired differences, the leakage-utility plane, one page."""

from auditor.comparison.compare import Comparison, compare
from auditor.comparison.page import Page, markdown, render
from auditor.comparison.records import Record
from auditor.comparison.tables import Table

__all__ = ["Comparison", "Page", "Record", "Table", "compare", "markdown", "render"]
