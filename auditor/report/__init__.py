"""The report: one self-contained HTML page, no network."""

from auditor.report.page import Figures, Leakage, render

__all__ = ["Figures", "Leakage", "render"]
