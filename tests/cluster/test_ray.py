"""The same pretraining as a job on a real Ray cluster."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from runs import (
    NO_DROPOUT,
    ROOT,
    SMALL,
    environment,
    identities,
    ledger,
    pretrain,
    worst_difference,
)

BIN = Path(sys.executable).parent
HOST = "127.0.0.2"  # 127.0.0.1 would be rewritten to the outer interface
TRIES = 3
"""Of Ray's head to start: it gives up after half a minute, which a busy machine may take."""
pytestmark = [pytest.mark.ray, pytest.mark.distributed, pytest.mark.timeout(300)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def ray_cluster(tmp_path_factory):
    """A head node with two CPUs; yields the address of its job server."""
    pytest.importorskip("ray")
    port, dashboard = free_port(), free_port()
    line = [
        BIN / "ray",
        "start",
        "--head",
        "--block",
        f"--node-ip-address={HOST}",
        f"--port={port}",
        f"--dashboard-host={HOST}",
        f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={free_port()}",  # its default is one a machine
        "--num-cpus=2",
        "--object-store-memory=300000000",
        "--disable-usage-stats",
        f"--temp-dir=/tmp/r{os.getpid()}",  # short: socket paths have a limit
    ]
    log = tmp_path_factory.mktemp("ray_head") / "log"
    for _ in range(TRIES):
        with log.open("w") as output:
            env = environment({"PYTHONUNBUFFERED": "1"})
            head = subprocess.Popen(line, env=env, stdout=output, stderr=output)
        try:
            if is_up(head, log):
                yield f"http://{HOST}:{dashboard}"
                return
        finally:
            end(head)
    raise AssertionError(log.read_text())


def is_up(head: subprocess.Popen, log: Path) -> bool:
    """Wait until a head serves, or until it ended."""
    deadline = time.monotonic() + 120
    while "Ray runtime started" not in log.read_text():
        if head.poll() is not None:
            return False
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)
    return True


def end(head: subprocess.Popen) -> None:
    """Kill the head and all that it started, by id."""
    family = []
    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(head.pid)
        family = [first, *first.children(recursive=True)]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    head.wait()
    psutil.wait_procs(family, timeout=10)
    shutil.rmtree(f"/tmp/r{os.getpid()}", ignore_errors=True)


def submit(address: str, settings: list[str]) -> subprocess.CompletedProcess:
    line = ["launch/pretrain.py"]
    for setting in [*settings, "cluster.allow_open=true"]:
        line += ["--set", setting]
    return job(address, line)


def job(address: str, script: list[str]) -> subprocess.CompletedProcess:
    line = [BIN / "ray", "job", "submit", "--address", address, "--working-dir", "."]
    line += ["--", "python", *script]
    return subprocess.run(
        line, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False, timeout=240
    )


def test_a_ray_job_with_two_workers_trains_the_same_pairs(ray_cluster, tiny_store, tmp_path):
    alone = pretrain(tmp_path / "alone", tiny_store, *NO_DROPOUT)
    directory = tmp_path / "ray"
    chosen = [*SMALL, *NO_DROPOUT, f"directory={directory}", f"data.store={tiny_store}"]
    done = submit(ray_cluster, chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rank 0 of 2" in done.stdout
    assert "rank 1 of 2" in done.stdout
    assert identities(ledger(directory)) == identities(alone)
    assert worst_difference(ledger(directory), alone) < 1e-5


def test_relative_places_are_refused_at_once(ray_cluster, tiny_store):
    done = submit(ray_cluster, [*SMALL, f"data.store={tiny_store}", "directory=runs/x"])
    assert done.returncode != 0
    assert "directory='runs/x' is relative" in done.stdout + done.stderr


def test_an_ingest_on_a_cluster_gives_the_same_store(ray_cluster, tmp_path):
    places = tmp_path / "cluster", tmp_path / "here"
    sizes = ["--images", "600", "--boxes", "2", "--feature-dim", "8", "--processes", "1"]
    for place, more in zip(places, (["--ray", "--allow-open"], []), strict=True):
        line = ["launch/prepare.py", "synthetic", *sizes, "--out", str(place), *more]
        done = job(ray_cluster, line) if more else run_here(line)
        assert done.returncode == 0, done.stdout + done.stderr
    one, other = ((place / "manifest.json").read_text() for place in places)
    assert one == other


def run_here(line: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *line],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
