"""The report: one self-contained HTML page, no network."""

from auditor.report.page import Figures, render

__all__ = ["Figures", "render"]
