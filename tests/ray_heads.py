"""A Ray head for tests of who may use it."""

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


@dataclass(frozen=True)
class Head:
    """Where it is."""

    address: str
    """Of the control service."""


@contextlib.contextmanager
def ray_head(folder: Path, env: Mapping[str, str]) -> Iterator[Head]:
    """A head with one CPU, started with ``env``; no dashboard, and killed at the end."""
    port = _free_port()
    place = f"/tmp/x{os.getpid()}"  # short: socket paths have a limit
    line = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    line += [f"--node-ip-address={HOST}", f"--port={port}", "--num-cpus=1"]
    line += [f"--dashboard-agent-listen-port={_free_port()}", "--include-dashboard=false"]
    line += ["--object-store-memory=100000000", "--disable-usage-stats", f"--temp-dir={place}"]
    patient = {"RAY_raylet_start_wait_time_s": "300", "PYTHONUNBUFFERED": "1"}
    log = folder / "head.log"
    with log.open("w") as output:
        head = subprocess.Popen(
            line, env={**env, **patient}, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            deadline = time.monotonic() + 400
            while "Ray runtime started" not in log.read_text():
                assert head.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
            yield Head(f"{HOST}:{port}")
        finally:
            family = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            head.wait()
            psutil.wait_procs(family, timeout=10)
            shutil.rmtree(place, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
