"""Runs on two real Ray nodes survive what happens to what they store to and report to."""

import ctypes
import subprocess
import time
from pathlib import Path

import pytest

from hosts import why_not
from mlflow_server import mlflow_server
from ray_nodes import DROPOUT, STEPS, pretraining, ray_nodes
from relay import relay
from runs import at_step, ledger, pretrain

CLONE_NEWNS = 0x00020000
pytestmark = [
    pytest.mark.ray,
    pytest.mark.s3,
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "hosts can be made"),
]


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A small disk that both nodes see, and this process; it is gone when they are."""
    place = tmp_path_factory.mktemp("disk")
    assert ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture(scope="module")
def nodes(disk, tmp_path_factory):
    pytest.importorskip("ray")
    with ray_nodes(tmp_path_factory.mktemp("nodes")) as made:
        yield made


@pytest.fixture(scope="module")
def undisturbed(tiny_store, tmp_path_factory):
    """Two ranks, with dropout."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return pretrain(folder, tiny_store, *STEPS, *DROPOUT, ranks=2)


def test_an_s3_server_that_is_killed_and_comes_back_is_waited_for(
    nodes, s3, undisturbed, tiny_store, tmp_path
):
    store = s3.upload(Path(tiny_store), "nodes")
    switch = nodes.net.switch
    places = {"AWS_ENDPOINT_URL": f"http://{switch.address}:{s3.port}"}
    chosen = pretraining(store, tmp_path, *DROPOUT, f"checkpoint.uri={s3.uri('kept')}")
    with relay(switch, s3.port):
        run = nodes.submit(chosen, log="s3", **s3.environment() | places)
        at_step(run, tmp_path, 15)
        s3.kill()
        time.sleep(5)
        assert len(ledger(tmp_path)) < 40, "it did not miss the server"
        s3.start()
        done = run.wait(400)
    assert done.code == 0, done.output
    assert s3.secret_key not in done.output
    assert ledger(tmp_path) == undisturbed


def test_an_mlflow_server_that_is_killed_disturbs_nothing(nodes, undisturbed, tiny_store, tmp_path):
    switch, folder = nodes.net.switch, tmp_path / "mlflow"
    folder.mkdir()
    with mlflow_server(folder) as server, relay(switch, server.port):
        server.start()
        tracking = ("tracking.mlflow=true", f"tracking.uri=http://{switch.address}:{server.port}")
        run = nodes.submit(pretraining(tiny_store, tmp_path, *DROPOUT, *tracking), log="mlflow")
        at_step(run, tmp_path, 15)
        server.kill()
        done = run.wait(400)
    assert done.code == 0, done.output
    assert done.output.count("Training goes on") == 1
    assert ledger(tmp_path) == undisturbed


def test_a_full_disk_ends_the_run_and_the_same_command_goes_on(
    nodes, disk, undisturbed, tiny_store, tmp_path
):
    chosen = pretraining(tiny_store, tmp_path, *DROPOUT, f"checkpoint.uri={disk}/kept")
    fill = disk / "other"
    run = nodes.drive(chosen, log="full")
    at_step(run, tmp_path, 15)
    subprocess.run(["dd", "if=/dev/zero", f"of={fill}", "bs=4k"], check=False)  # until it is full
    done = run.wait(200)
    assert done.code == 1, done.output
    [error] = [line for line in done.output.splitlines() if line.startswith("error: ")]
    for part in (str(disk), "no space left", "checkpoint.uri"):
        assert part in error
    fill.unlink()
    done = nodes.drive(chosen, log="full").wait(400)
    assert done.code == 0, done.output
    assert ledger(tmp_path) == undisturbed
