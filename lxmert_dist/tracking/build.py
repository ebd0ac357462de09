"""The tracker of a run, and how to look at it."""

import logging
import shlex
from collections.abc import Mapping
from pathlib import Path

from lxmert_dist.config import TrackingConfig
from lxmert_dist.redact import redact
from lxmert_dist.tracking.environment import git_commit
from lxmert_dist.tracking.jsonl import JsonlTracker, read_metrics
from lxmert_dist.tracking.mlflow_tracker import MlflowTracker
from lxmert_dist.tracking.tracker import Tee, Tracker

_log = logging.getLogger(__name__)


def build_tracker(
    config: TrackingConfig,
    *,
    directory: Path,
    run_name: str,
    run_id: str | None,
    resume_step: int | None,
    tags: Mapping[str, str],
    parent: str = "",
) -> Tracker:
    """The local log, and MLflow where it is wanted and installed.

    Args:
        config: where to track.
        directory: of the run.
        run_name: of a new MLflow run.
        run_id: MLflow run to continue.
        resume_step: the step that the run goes on from; None for a new run.
        tags: of the MLflow run; the commit is added where there is one.
        parent: id of the MLflow run whose weights this one starts from; empty is none.

    Raises:
        ConfigError: the local log cannot be written.
    """
    path = directory / "metrics.jsonl"
    local = JsonlTracker(path, resume_step)
    if not config.mlflow:
        return local
    commit = git_commit()
    if commit:
        tags = {**tags, "mlflow.source.git.commit": commit}
    own = None if config.uri else (directory.parent / "mlartifacts").absolute().as_uri()
    try:
        remote = MlflowTracker(
            tracking_uri(config, directory),
            config.experiment,
            run_name,
            run_id,
            tags,
            local_copy=str(path),
            artifacts=own,
            earlier=[] if resume_step is None else read_metrics(path),
            parent=parent,
            below=config.parent,
        )
    except ImportError as error:
        _log.warning(
            "warning: MLflow cannot be imported (%s; pip install 'lxmert_dist[mlflow]'). "
            "All metrics are in %s",
            error,
            path,
        )
        return local
    return Tee([local, remote])


def tracking_uri(config: TrackingConfig, directory: Path) -> str:
    """The URI that a run is tracked at."""
    return config.uri or f"sqlite:///{directory.parent / 'mlflow.db'}"


def ui_command(config: TrackingConfig, directory: Path) -> str:
    """What opens the MLflow UI on a run."""
    uri = tracking_uri(config, directory)
    if uri.startswith("http"):
        return f"open {redact(uri)} in a browser"
    return f"uv run mlflow ui --backend-store-uri {shlex.quote(redact(uri))}"
