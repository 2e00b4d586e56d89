"""The page on which a person judges, and what the answers say as tables."""

from report.judge.page import render

__all__ = ["render"]
