"""MLflow behind the protocol of trackers. The only file that imports it.

Everything that talks to the server happens in one daemon thread, fed by a bounded queue, so that
a slow server never slows training and a dead one never stops it. Problems are logged, not warned
of by ``warnings``: a filter that turns warnings into errors must not reach training.
"""

import logging
import math
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from lxmert_dist.errors import ConfigError, StoreError
from lxmert_dist.redact import redact, redact_param
from lxmert_dist.tracking.tracker import Scalar, Status

_QUEUE_LIMIT = 10_000
_CLOSE_SECONDS = 30.0
_RETRY_SECONDS = 5.0
_NO_NAME = re.compile(r"[^\w\-. :/]")
_BATCH = 500
"""MLflow takes at most 1000 metrics at once."""


def _now() -> int:
    """In milliseconds, as MLflow counts time."""
    return int(time.time() * 1000)


@dataclass
class _Metrics:
    values: dict[str, float]
    step: int
    milliseconds: int = field(default_factory=_now)


_Call = Callable[[Any, str], object]
T = TypeVar("T")
_log = logging.getLogger(__name__)


class _GivenUpError(Exception):
    """The run has closed and the server is still out of reach."""


class MlflowTracker:
    """One MLflow run, new or continued."""

    def __init__(
        self,
        uri: str,
        experiment: str,
        run_name: str,
        run_id: str | None,
        tags: Mapping[str, str],
        local_copy: str,
        artifacts: str | None,
        earlier: Sequence[tuple[int, Mapping[str, float]]] = (),
        parent: str = "",
        below: str = "",
    ) -> None:
        """Import MLflow and start the thread; nothing waits for the server.

        Args:
            uri: tracking URI.
            experiment: name; made if there is none.
            run_name: of a new run.
            run_id: of a run to continue.
            tags: of the run.
            local_copy: where a reader of a warning finds the metrics.
            artifacts: URI for the files of a new experiment; None leaves it to the server.
            earlier: steps and their metrics, logged by earlier starts; what the server lacks of
                them is sent.
            parent: id of the run whose weights this one starts from; empty is none.
            below: id of the run below which this one is shown, if the server has it in the same
                experiment; by default ``parent``.

        Raises:
            ImportError: MLflow is not installed.
        """
        _import_mlflow()
        self._uri = uri
        self._experiment = redact(experiment)
        self._run_name = redact(run_name)
        self._wanted_id = run_id
        self._tags = {k: redact(v) for k, v in tags.items()}
        self._local_copy = local_copy
        self._artifacts = artifacts
        self._earlier = earlier
        self._parent = parent
        self._below = below or parent
        self._began = _now()
        self._queue: queue.Queue[_Metrics | _Call | None] = queue.Queue(_QUEUE_LIMIT)
        self._run_id: str | None = run_id
        self._status: Status = "FINISHED"
        self._warned: set[str] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    @property
    def run_id(self) -> str | None:
        """Known once the server has answered."""
        return self._run_id

    def log_params(self, params: Mapping[str, Scalar]) -> None:
        """Queue the settings; one that changed since an earlier start is reported, not logged."""
        texts = {
            _NO_NAME.sub("-", key): redact_param(key, value)[:6000] for key, value in params.items()
        }

        def send(client: Any, run_id: str) -> None:
            from mlflow.entities import Param

            there = client.get_run(run_id).data.params
            changed = sorted(k for k, v in texts.items() if there.get(k, v) != v)
            if changed:
                self._warn(
                    "settings", f"settings changed since the run began: {', '.join(changed)}"
                )
            new = [Param(k, v) for k, v in texts.items() if k not in there]
            for start in range(0, len(new), 100):
                client.log_batch(run_id, params=new[start : start + 100])

        self._put(send)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Queue numbers; what is not finite MLflow's charts cannot show, and is left out."""
        self._put(_Metrics({k: v for k, v in metrics.items() if math.isfinite(v)}, step))

    def log_text(self, text: str, name: str) -> None:
        """Queue a text file, without secrets."""
        shown = redact(text)
        self._put(lambda client, run_id: client.log_text(run_id, shown, name))

    def close(self, status: Status) -> None:
        """Wait up to half a minute for the queue to empty, then end the run."""
        self._status = status
        self._closing.set()
        with suppress(queue.Full):  # then the thread is not waiting for an item
            self._queue.put_nowait(None)
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            self._warn("close", "not everything was delivered in time")

    def _put(self, item: _Metrics | _Call) -> None:
        if not self._thread.is_alive():  # the server refused the run, and that has been said
            return
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self._warn("full", "too much is waiting to be sent; newer metrics are dropped")

    def _warn(self, kind: str, problem: str) -> None:
        """Once for each kind; a run of days should not fill its log with this."""
        if kind not in self._warned:
            self._warned.add(kind)
            _log.warning(
                "warning: MLflow at %s: %s. Training goes on; all metrics are in %s",
                redact(self._uri),
                problem.removesuffix("."),
                self._local_copy,
            )

    def _work(self) -> None:
        with suppress(_GivenUpError):
            opened = self._until_done(self._open)
            if opened is None:
                return
            client, run_id = opened
            self._until_done(partial(_send_missing, client, run_id, self._earlier, self._began))
            self._earlier = ()  # nothing needs it any more, and it grows with the run
            while (item := self._next()) is not None:
                if isinstance(item, _Metrics):
                    batch = [item, *self._more_metrics()]
                    self._until_done(partial(_log_metrics, client, run_id, batch))
                else:
                    self._until_done(partial(item, client, run_id))
            self._until_done(partial(client.set_terminated, run_id, self._status))

    def _next(self) -> _Metrics | _Call | None:
        """The next item; None when the run has closed and nothing is left."""
        try:
            return self._queue.get(block=not self._closing.is_set())
        except queue.Empty:
            return None

    def _more_metrics(self) -> Iterator[_Metrics]:
        """Metrics that wait right behind one, to be sent with it."""
        with self._queue.mutex:
            waiting = self._queue.queue
            while waiting and isinstance(waiting[0], _Metrics):
                yield waiting.popleft()

    def _until_done(self, action: Callable[[], T]) -> T | None:
        """Repeat until the server takes it (the result) or refuses it (None).

        Raises:
            _GivenUpError: the server did not answer a try that began after the run had closed.
        """
        while True:
            last_try = self._closing.is_set()
            try:
                return action()
            except Exception as error:  # whatever a server or its client may raise
                problem = redact(str(error) or repr(error)).splitlines()[0][:300]
                if _is_refusal(error):
                    self._warn("refusal", f"refused: {problem}")
                    return None
                self._warn("server", problem)
                if last_try:
                    raise _GivenUpError from error
            self._closing.wait(_RETRY_SECONDS)

    def _open(self) -> tuple[Any, str]:
        from mlflow import MlflowClient

        client = MlflowClient(self._uri)
        run = self._continue(client)
        if run is None:
            run = client.create_run(self._experiment_id(client), run_name=self._run_name)
        run_id = str(run.info.run_id)
        self._run_id = self._wanted_id = run_id  # another try goes on with it
        for key, value in {**self._tags, **self._descent(client, run)}.items():
            client.set_tag(run_id, key, value)
        return client, run_id

    def _descent(self, client: Any, run: Any) -> dict[str, str]:
        """The tags that say whose weights ``run`` starts from."""
        tags = {"init_run": self._parent} if self._parent else {}
        above = _find_run(client, self._below) if self._below else None
        if above is not None and above.info.experiment_id == run.info.experiment_id:
            tags["mlflow.parentRunId"] = self._below
        return tags

    def _experiment_id(self, client: Any) -> str:
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(self._experiment)
        if found is None:
            try:
                return str(client.create_experiment(self._experiment, self._artifacts))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = client.get_experiment_by_name(self._experiment)  # another run was faster
        return str(found.experiment_id)

    def _continue(self, client: Any) -> Any:
        """The wanted run set running again, or None if the server does not know it."""
        if self._wanted_id is None:
            return None
        run = _find_run(client, self._wanted_id)
        if run is None:
            self._warn("resume", f"it does not know run {self._wanted_id}; a new run is started")
            return None
        client.update_run(self._wanted_id, status="RUNNING")
        return run


def log_to_run(uri: str, run_id: str, metrics: Mapping[str, float], text: str, file: str) -> None:
    """Add figures, and a text file, to a run that is there already; waits for the server.

    Args:
        uri: tracking URI.
        run_id: of the run.
        metrics: by name; characters that MLflow takes in no name become hyphens.
        text: of the file.
        file: its name among the run's artifacts.

    Raises:
        ImportError: MLflow is not installed.
        ConfigError: there is no such run.
        StoreError: the server cannot be reached, or refuses.
    """
    _import_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(uri)
        if _find_run(client, run_id) is None:
            raise ConfigError(f"{redact(uri)} has no run {run_id}; check the id and the URI")
        for name, value in metrics.items():
            client.log_metric(run_id, _NO_NAME.sub("-", name), value)
        client.log_text(run_id, text, file)
    except MlflowException as error:
        raise StoreError(
            f"MLflow at {redact(uri)}: {redact(str(error)).splitlines()[0]}; check the URI, and "
            "that the server runs"
        ) from error


def _find_run(client: Any, run_id: str) -> Any:
    """The run with this id; None where there is none, or it was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _import_mlflow() -> None:
    """Import it on the caller's thread: imports that run beside training's own could deadlock."""
    # Few and short tries: what fails stays in our queue and is sent later anyway.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow  # noqa: F401


def _is_refusal(error: Exception) -> bool:
    """Whether the server, or the client in its place, will never take this."""
    from mlflow.exceptions import MlflowException

    if not isinstance(error, MlflowException):
        return False
    status = error.get_http_status_code()
    return 400 <= status < 500 and status not in (408, 429, 499)


def _send_missing(
    client: Any, run_id: str, earlier: Sequence[tuple[int, Mapping[str, float]]], began: int
) -> None:
    """Send what was logged while the server was away, or by a start that was killed.

    Its time is ``began``, in milliseconds: before what this start logs.
    """
    names = {name for _, values in earlier for name in values}
    there = {name: {m.step for m in client.get_metric_history(run_id, name)} for name in names}
    missing = []
    for step, values in earlier:
        new = {k: v for k, v in values.items() if math.isfinite(v) and step not in there[k]}
        missing.append(_Metrics(new, step, began))
    _log_metrics(client, run_id, missing)


def _log_metrics(client: Any, run_id: str, metrics: list[_Metrics]) -> None:
    from mlflow.entities import Metric

    rows = [Metric(k, v, m.milliseconds, m.step) for m in metrics for k, v in m.values.items()]
    for start in range(0, len(rows), _BATCH):
        client.log_batch(run_id, metrics=rows[start : start + _BATCH])
