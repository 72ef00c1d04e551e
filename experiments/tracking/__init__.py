"""Trackers as mirrors of the store: one run a stage execution, one a cell. Our records stay the truth."""

from experiments.tracking.runs import Run, Silent
from experiments.tracking.tracker import TRACKERS, Tracker, check_tracking, mode_of

__all__ = ["TRACKERS", "Run", "Silent", "Tracker", "check_tracking", "mode_of"]
