"""A real MLflow server, for tests."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from runs import environment

START_S = 120


@dataclass
class MlflowServer:
    """Where it is; it runs between :meth:`start` and :meth:`kill`."""

    folder: Path
    """Takes its database, artifacts and log."""
    port: int = field(default_factory=lambda: _free_port())
    _process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """What leads clients to it."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, with what it kept; returns when it answers."""
        line = [str(Path(sys.executable).parent / "mlflow"), "server", "--workers", "1"]
        line += ["--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        line += ["--artifacts-destination", str(self.folder / "artifacts")]
        line += ["--host", "127.0.0.1", "--port", str(self.port)]
        log = self.folder / "server.log"
        with log.open("a") as output:
            self._process = subprocess.Popen(
                line,
                env=environment({"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        """SIGKILL it and its workers."""
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


@contextmanager
def mlflow_server(folder: Path) -> Iterator[MlflowServer]:
    """A server, not started yet, that is gone when the block ends."""
    server = MlflowServer(folder)
    try:
        yield server
    finally:
        server.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
