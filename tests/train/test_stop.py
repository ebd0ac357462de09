"""A run that is asked to end leaves a checkpoint, says so by its code, and goes on bit by bit."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from lxmert_dist.errors import PreemptedError, StoppedError
from lxmert_dist.tracking import read_metrics
from lxmert_dist.train.stop import Stop
from lxmert_dist.train.world import World
from runs import ROOT, SMALL, command, environment, ledger, pretrain, pretrain_and_signal

STEPS = (
    "train.max_steps=24",
    "checkpoint.every=100",  # so that what is left is what the signal left
    "model.hidden_dropout=0.1",
    "model.attention_dropout=0.1",
)


def settings(store, directory):
    return [*SMALL, *STEPS, f"directory={directory}", f"data.store={store}"]


@pytest.fixture(scope="module")
def undisturbed(tiny_store, tmp_path_factory):
    return pretrain(tmp_path_factory.mktemp("undisturbed"), tiny_store, *STEPS)


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("number", "code", "says"),
    [(signal.SIGTERM, 75, "SIGTERM ended the run"), (signal.SIGINT, 130, "SIGINT ended the run")],
)
def test_a_signal_leaves_a_checkpoint_that_the_same_command_goes_on_from(
    undisturbed, tiny_store, tmp_path, number, code, says
):
    chosen = [*settings(tiny_store, tmp_path), "train.log_every=1"]
    codes, output = pretrain_and_signal(chosen, tmp_path, 6, number)
    assert codes == [code], output
    done = len(ledger(tmp_path))
    assert 6 <= done < 24
    logged = [step for step, of in read_metrics(tmp_path / "metrics.jsonl") if "train/loss" in of]
    assert logged == [*range(1, done + 1)]
    place = tmp_path / "checkpoints" / f"step-{done:08d}"
    assert f"{says} after step {done}; the checkpoint is {place}" in output
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [place.name]
    assert pretrain(tmp_path, tiny_store, *STEPS) == undisturbed


@pytest.mark.distributed
def test_ranks_agree_when_only_one_got_the_signal(tiny_store, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    undisturbed = pretrain(whole, tiny_store, *STEPS, ranks=2)
    chosen = settings(tiny_store, cut)
    codes, output = pretrain_and_signal(chosen, cut, 6, signal.SIGTERM, ranks=2, rank=1)
    assert codes == [75, 75], output
    done = len(ledger(cut))
    assert f"SIGTERM ended the run after step {done}" in output
    assert [p.name for p in (cut / "checkpoints").iterdir()] == [f"step-{done:08d}"]
    assert pretrain(cut, tiny_store, *STEPS, ranks=2) == undisturbed


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["deepspeed", "torchrun"])
def test_a_launcher_passes_the_signal_on(tiny_store, tmp_path, launcher):
    line = command("pretrain.py", settings(tiny_store, tmp_path), ranks=2)
    if launcher == "torchrun":
        script = line[line.index(str(ROOT / "launch" / "pretrain.py")) :]
        line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", *script]
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(
            line, cwd=ROOT, env=environment(), stdout=log, stderr=subprocess.STDOUT
        )
        while len(ledger(tmp_path)) < 6:
            assert process.poll() is None, "the run ended before the signal"
            time.sleep(0.01)
        family = psutil.Process(process.pid).children(recursive=True)
        # torchrun passes it on; deepspeed's outer process does not, its inner one does
        target = process.pid if launcher == "torchrun" else family[0].pid
        os.kill(target, signal.SIGTERM)
        ended = process.wait(timeout=60)
        psutil.wait_procs(family, timeout=30)
        log.seek(0)
        output = log.read()
    assert ended == 1, output  # theirs; the ranks end by 75
    done = len(ledger(tmp_path))
    assert f"SIGTERM ended the run after step {done}" in output
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [f"step-{done:08d}"]


def test_a_step_that_takes_too_long_ends_without_a_checkpoint():
    code = """
import os, signal, time
from lxmert_dist.train.stop import Stop
with Stop(0.2):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(20)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 75, done.stderr
    assert "no checkpoint within checkpoint.grace_seconds=0.2" in done.stderr


def test_handlers_are_put_back_and_a_request_needs_no_signal():
    before = signal.getsignal(signal.SIGTERM)
    with Stop(60) as stop:
        assert signal.getsignal(signal.SIGTERM) != before
        stop.check_together(World())
        stop.request()
        with pytest.raises(PreemptedError):
            stop.check_together(World())
        stop.request(signal.SIGINT)
        with pytest.raises(StoppedError) as raised:  # the user's wish comes first
            stop.check_together(World())
        assert raised.value.exit_code == 130
    assert signal.getsignal(signal.SIGTERM) == before
