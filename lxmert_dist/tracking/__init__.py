"""Where a run's numbers go: always ``metrics.jsonl``, and MLflow if it is wanted and there."""

from lxmert_dist.tracking.build import build_tracker, tracking_uri, ui_command
from lxmert_dist.tracking.environment import environment_report, package_versions
from lxmert_dist.tracking.jsonl import read_metrics
from lxmert_dist.tracking.mlflow_tracker import log_to_run
from lxmert_dist.tracking.plots import log_curves
from lxmert_dist.tracking.tracker import NullTracker, Status, Tracker

__all__ = [
    "NullTracker",
    "Status",
    "Tracker",
    "build_tracker",
    "environment_report",
    "log_curves",
    "log_to_run",
    "package_versions",
    "read_metrics",
    "tracking_uri",
    "ui_command",
]
