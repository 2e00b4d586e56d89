"""The report: one self-contained HTML page, no network."""

from report.run.page import Figures, Leakage, render

__all__ = ["Figures", "Leakage", "render"]
