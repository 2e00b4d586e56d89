"""Sweeps: many experiments from one file, each in a run directory of its own, compared at the end."""

from pipeline.sweep.plan import Plan, Point, load_plan
from pipeline.sweep.runner import Outcome, run_points

__all__ = ["Outcome", "Plan", "Point", "load_plan", "run_points"]
