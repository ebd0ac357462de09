"""The real command on a store behind an S3 server that misbehaves."""

import time
from pathlib import Path

import pytest

import shared_memory
from fault_proxy import FlipBit, Refuse, Reset, Truncate, Vanish
from runs import SMALL, ledger, pretrain, pretrain_and_kill, run

pytestmark = [pytest.mark.s3, pytest.mark.distributed]

FEATURES = "train/roi_features/c/"
TWO_EPOCHS = ("train.epochs=2", "train.max_steps=40", "checkpoint.every=10")


@pytest.fixture
def remote_store(s3, tiny_store):
    return s3.upload(Path(tiny_store), "faulty")


def test_a_run_that_meets_faults_and_is_killed_ends_like_any_other(
    proxy, remote_store, tiny_store, tmp_path
):
    """The second start meets them too; and a process that is killed leaves nothing in memory."""
    undisturbed = pretrain(tmp_path / "here", tiny_store, *TWO_EPOCHS)
    there = tmp_path / "there"
    settings = [*SMALL, *TWO_EPOCHS, f"directory={there}", f"data.store={remote_store}"]
    named = shared_memory.names()

    spoil_everything(proxy)
    pretrain_and_kill(settings, there, 13)
    assert not shared_memory.left_since(named)
    assert 13 <= len(ledger(there)) < 40

    met = spoil_everything(proxy)
    done = run("pretrain.py", settings)
    assert done.code == 0, done.output
    assert "resumed from step 10" in done.output
    assert ledger(there) == undisturbed
    assert all(rule.hits for rule in met)


def spoil_everything(proxy):
    """Half a second without service, and a fault for each object; from the third GET on."""
    proxy.rules.clear()
    proxy.spoil(FEATURES, Refuse(503, "ServiceUnavailable"), after=3, seconds=0.5)
    for keys, fault in {"[012]/": Reset(midway=True), "[345]/": Truncate(), "": FlipBit()}.items():
        proxy.spoil(FEATURES + keys, fault, times=1)
    return proxy.rules


def test_an_endpoint_that_goes_away_ends_the_run(proxy, remote_store, tmp_path):
    proxy.spoil(FEATURES, Vanish(), after=3)
    settings = [*SMALL, *TWO_EPOCHS, f"directory={tmp_path}", f"data.store={remote_store}"]
    done = run("pretrain.py", [*settings, "data.patience_s=2"])
    assert done.code == 1
    errors = [line for line in done.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.output
    assert FEATURES in errors[0]
    assert "check the endpoint" in errors[0]
    assert "Traceback" not in done.output
    gone = next(request.began for request in proxy.requests if request.fault)
    assert time.monotonic() - gone < 60, "its patience is 2 s; the end of a process takes time"
