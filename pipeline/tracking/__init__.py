"""Trackers: a run's figures copied to TensorBoard, MLflow or Weights & Biases while it runs, on this machine.

The run directory stays the source of truth. A tracker sees what is recorded there, is filled again from it when a run
is resumed, and may fail without harm to the run.
"""

from pipeline.tracking.tracker import Tracker
from pipeline.tracking.trackers import Trackers, Tracking, check_installed

__all__ = ["Tracker", "Trackers", "Tracking", "check_installed"]
