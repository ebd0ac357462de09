"""The same pretraining as a job on a real Ray cluster."""

import subprocess
import sys
from pathlib import Path

import pytest

from ray_heads import ray_head
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
pytestmark = [pytest.mark.ray, pytest.mark.distributed, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def ray_cluster(tmp_path_factory):
    """A head node with two CPUs; yields the address of its job server."""
    pytest.importorskip("ray")
    folder = tmp_path_factory.mktemp("ray_head")
    with ray_head(folder, environment(), cpus=2, dashboard=True) as head:
        yield head.jobs


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


@pytest.mark.slow
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
