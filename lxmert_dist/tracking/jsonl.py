"""The local log: metrics as one JSON object a line, texts as files beside them.

It is there whatever becomes of any server.
"""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path

from lxmert_dist.errors import ConfigError
from lxmert_dist.redact import redact
from lxmert_dist.tracking.tracker import Scalar, Status

_log = logging.getLogger(__name__)


class JsonlTracker:
    """Appends ``{"step": …, "metrics": {…}}`` to a file."""

    run_id: str | None = None

    def __init__(self, path: Path, resume_step: int | None) -> None:
        """Open the log.

        Args:
            path: of the file; its directory is made.
            resume_step: lines of later steps are dropped, since the run takes these again; None
                starts an empty log.

        Raises:
            ConfigError: the file cannot be written.
        """
        self._directory = path.parent
        last = -1 if resume_step is None else resume_step
        temporary = path.with_suffix(".tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = [(step, metrics) for step, metrics in read_metrics(path) if step <= last]
            temporary.write_text("".join(_line(step, metrics) for step, metrics in kept))
            temporary.replace(path)
            self._file = path.open("a")
        except OSError as error:
            raise ConfigError(
                f"cannot write {path}: {error.strerror}; set directory to a place that can be "
                "written"
            ) from error

    def log_params(self, params: Mapping[str, Scalar]) -> None:
        """Nothing: ``config.toml`` has them."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Append a line, and have it on disk."""
        self._file.write(_line(step, metrics))
        self._file.flush()

    def log_text(self, text: str, name: str) -> None:
        """Write the file beside the log, without secrets; a warning where that is impossible."""
        file = self._directory / name
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(redact(text), "utf-8")
        except OSError as error:
            _log.warning("warning: cannot write %s: %s", file, error.strerror)

    def close(self, status: Status) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[tuple[int, dict[str, float]]]:
    """The lines of a log, in order; a last line that was cut short by a kill is left out."""
    if not path.exists():
        return []
    entries = []
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            break
        metrics = {k: math.nan if v is None else v for k, v in entry["metrics"].items()}
        entries.append((int(entry["step"]), metrics))
    return entries


def _line(step: int, metrics: Mapping[str, float]) -> str:
    """JSON knows no NaN and no infinity; both become null."""
    finite = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
    return json.dumps({"step": step, "metrics": finite}) + "\n"
