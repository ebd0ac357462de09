"""``launch/extract.py`` in several processes, killed, and on Ray: always the same store."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lxmert_dist.cli import extract
from lxmert_dist.store import open_store, verify
from photographs import write_photographs
from ray_heads import ray_head
from runs import ROOT, environment
from tiny_rcnn import save_tiny_detector

pytestmark = [pytest.mark.slow, pytest.mark.distributed, pytest.mark.timeout(600)]
IMAGES = 330  # eleven tasks


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Images and a detector."""
    folder = tmp_path_factory.mktemp("places")
    write_photographs(folder / "photos", IMAGES, unusual=True)
    save_tiny_detector(folder / "detector")
    return ["--images", str(folder / "photos"), "--detector", str(folder / "detector")]


@pytest.fixture(scope="module")
def alone(places, tmp_path_factory):
    """The digest of the store of one process that nobody stopped, and its report."""
    out = tmp_path_factory.mktemp("alone") / "store"
    assert extract.main([*places, "--out", str(out), "--workers", "1"]) == 0
    return store_of(out)


def store_of(out: Path) -> tuple[str, str]:
    store = open_store(str(out))
    assert list(verify(store)) == []
    assert not Path(f"{out}.stage").exists()
    return store.digest, Path(f"{out}.refused.jsonl").read_text()


def command(*line: str) -> list[str]:
    return [sys.executable, str(ROOT / "launch/extract.py"), *line]


def finished(out: Path) -> set[Path]:
    return set(Path(f"{out}.stage/tasks").glob("*.json"))


@pytest.mark.parametrize("after", [2, 7])
def test_a_run_that_was_killed_goes_on(places, alone, tmp_path, after):
    out, log = tmp_path / "store", tmp_path / "log"
    line = command(*places, "--out", str(out), "--workers", "2")
    with log.open("w") as output:
        killed = subprocess.Popen(line, env=environment(), stderr=output, cwd=ROOT)
        while len(finished(out)) < after:
            assert killed.poll() is None, log.read_text()
            time.sleep(0.002)
        family = psutil.Process(killed.pid).children(recursive=True)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
    assert psutil.wait_procs(family, timeout=20)[1] == []
    kept = {file: file.stat().st_mtime_ns for file in finished(out)}
    assert after <= len(kept) < 11
    again = subprocess.Popen(line, env=environment(), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not Path(f"{out}/zarr.json").exists() and again.poll() is None:
        times = {file: file.stat().st_mtime_ns for file in finished(out)}
        assert {file: times[file] for file in kept if file in times} == kept
        time.sleep(0.05)
    said = again.communicate()[1]
    assert again.returncode == 0, said
    assert f"{len(kept)} finished tasks are kept" in said
    assert store_of(out) == alone


@pytest.mark.ray
def test_two_workers_of_a_ray_cluster(places, alone, tmp_path):
    pytest.importorskip("ray")
    out = tmp_path / "store"
    line = command(*places, "--out", str(out), "--ray", "--workers", "2", "--allow-open")
    with ray_head(tmp_path, environment(), cpus=2) as head:
        done = subprocess.run(
            line,
            env=environment({"RAY_ADDRESS": head.address}),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert store_of(out) == alone
