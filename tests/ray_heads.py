"""A Ray head of one host, for tests."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

HOST = "127.0.0.2"  # 127.0.0.1 would be rewritten to the outer interface
TRIES = 3
"""Of a head to start: it gives up after half a minute, which a busy machine may take."""


@dataclass(frozen=True)
class Head:
    """Where it is."""

    address: str
    """Of the control service."""
    jobs: str
    """Of the job server, if there is a dashboard."""


@contextlib.contextmanager
def ray_head(
    folder: Path, env: Mapping[str, str], *, cpus: int = 1, dashboard: bool = False
) -> Iterator[Head]:
    """A head, started with ``env``, and killed at the end with all that it started."""
    port, jobs = _free_port(), _free_port()
    place = f"/tmp/r{os.getpid()}"  # short: socket paths have a limit
    line = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    line += [f"--node-ip-address={HOST}", f"--port={port}", f"--num-cpus={cpus}"]
    line += [f"--dashboard-agent-listen-port={_free_port()}"]  # its default is one a machine
    line += [f"--include-dashboard={str(dashboard).lower()}"]
    line += [f"--dashboard-host={HOST}", f"--dashboard-port={jobs}"]
    line += ["--object-store-memory=300000000", "--disable-usage-stats", f"--temp-dir={place}"]
    log = folder / "head.log"
    for _ in range(TRIES):
        with log.open("w") as output:
            unbuffered = {**env, "PYTHONUNBUFFERED": "1"}
            head = subprocess.Popen(line, env=unbuffered, stdout=output, stderr=output)
        try:
            if _is_up(head, log):
                yield Head(f"{HOST}:{port}", f"http://{HOST}:{jobs}")
                return
        finally:
            _end(head)
            shutil.rmtree(place, ignore_errors=True)
    raise AssertionError(log.read_text())


def _is_up(head: subprocess.Popen, log: Path) -> bool:
    """Wait until a head serves, or until it ended."""
    deadline = time.monotonic() + 120
    while "Ray runtime started" not in log.read_text():
        if head.poll() is not None:
            return False
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)
    return True


def _end(head: subprocess.Popen) -> None:
    """Kill it and all that it started, by id."""
    family = []
    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(head.pid)
        family = [first, *first.children(recursive=True)]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    head.wait()
    psutil.wait_procs(family, timeout=10)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
