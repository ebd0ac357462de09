"""The same run from a store, and with checkpoints, on a real S3 server."""

import subprocess
import time
from pathlib import Path

import pytest

from lxmert_dist.store import open_store
from lxmert_dist.train.checkpoint import Checkpoints
from ranks import started
from runs import (
    SMALL,
    at_step,
    command,
    environment,
    identities,
    ledger,
    pretrain,
    pretrain_and_kill,
    run,
)

pytestmark = [pytest.mark.s3, pytest.mark.distributed]


@pytest.fixture
def remote_store(s3, tiny_store):
    """The small store, object by object, in a bucket."""
    uri = s3.upload(Path(tiny_store), "tiny")
    assert open_store(uri).digest == open_store(tiny_store).digest
    return uri


def test_a_killed_run_on_s3_ends_like_one_on_a_disk(remote_store, tiny_store, s3, tmp_path):
    here = pretrain(tmp_path / "here", tiny_store)
    there = tmp_path / "there"
    checkpoints = s3.uri("checkpoints")
    settings = [*SMALL, f"directory={there}", f"data.store={remote_store}"]
    settings += [f"checkpoint.uri={checkpoints}", "checkpoint.background=false"]
    pretrain_and_kill(settings, there, 7)
    assert Checkpoints(checkpoints).latest().state().step == 4
    done = run("pretrain.py", settings)
    assert done.code == 0, done.output
    assert "resumed from step 4" in done.output
    assert identities(ledger(there)) == identities(here)
    assert ledger(there) == here
    state = Checkpoints(checkpoints).latest().state()
    assert state.step == 12
    assert s3.secret_key not in str(state)


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_is_waited_for(
    remote_store, tiny_store, s3, tmp_path
):
    """Two ranks read from it and write checkpoints to it; it is away for five seconds."""
    longer = ("train.epochs=4", "train.max_steps=80")
    here = pretrain(tmp_path / "here", tiny_store, *longer, ranks=2)
    there = tmp_path / "there"
    settings = [*SMALL, *longer, f"directory={there}", f"data.store={remote_store}"]
    settings += [f"checkpoint.uri={s3.uri('outlived')}"]
    with started(settings, 2) as running:
        at_step(running, there, 13)
        s3.kill()
        time.sleep(5)
        assert len(ledger(there)) < 30, "it did not miss the server"
        s3.start()
        assert running.wait() == [0, 0], running.output
    assert ledger(there) == here
    assert Checkpoints(s3.uri("outlived")).latest().state().step == 80


def test_easy_vqa_is_prepared_on_s3_as_on_a_disk(s3, tmp_path):
    for place in (str(tmp_path / "store"), s3.uri("easy_vqa")):
        done = run_prepare(place)
        assert done.returncode == 0, done.stdout
    here, there = open_store(str(tmp_path / "store")), open_store(s3.uri("easy_vqa"))
    assert there.digest == here.digest
    assert set(there.manifest.splits) == {"train", "valid", "test"}


def run_prepare(place: str) -> subprocess.CompletedProcess:
    line = command("prepare.py", [])
    return subprocess.run(
        [*line, "easy-vqa", "--out", place, "--limit", "40"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
