"""A run whose launcher was killed leaves a checkpoint, ends, and goes on by the same command."""

import subprocess
import sys
import time

import psutil
import pytest

from lxmert_dist.train.orphan import launchers_above
from runs import ROOT, SMALL, command, environment, ledger, pretrain

STEPS = (
    "train.epochs=5",
    "train.max_steps=120",
    "checkpoint.every=1000",
    "train.micro_batch_size=16",
)

STARTS_IT = """
import subprocess, sys
subprocess.run([sys.executable, *sys.argv[1:]])
"""
WAITS_FOR_THE_END = """
import os, time
from lxmert_dist.errors import PreemptedError
from lxmert_dist.train.orphan import Orphan
from lxmert_dist.train.stop import Stop
from lxmert_dist.train.world import World
with Stop(60) as stop, Orphan(stop):
    print("up", flush=True)
    while True:
        try:
            stop.check_together(World())
        except PreemptedError as error:
            print(error, flush=True)
            os._exit(error.exit_code)
        time.sleep(0.05)
"""


@pytest.mark.parametrize("name", ["deepspeed", "torchrun"])
def test_the_end_of_a_launcher_is_seen_and_asks_for_the_end(tmp_path, name):
    (tmp_path / name).write_text(STARTS_IT)
    line = [sys.executable, str(tmp_path / name), "-c", WAITS_FOR_THE_END]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as top:
        assert top.stdout
        assert top.stdout.readline() == "up\n"
        (rank,) = psutil.Process(top.pid).children()
        assert [p.pid for p in launchers_above(rank.pid)] == [top.pid]
        top.kill()
        assert top.stdout.read() == (
            f"the launcher (process {top.pid}) is gone; the run ends as on SIGTERM\n"
            "SIGTERM ended the run\n"
        )
    assert not psutil.wait_procs([rank], timeout=30)[1]


def test_a_shell_is_no_launcher():
    line = ["sh", "-c", "sleep 1000; true"]
    with subprocess.Popen(line) as shell:
        children = psutil.Process(shell.pid).children
        while not children():
            time.sleep(0.01)
        (child,) = children()
        assert launchers_above(child.pid) == []
        child.kill()


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["deepspeed", "the inner one of deepspeed", "torchrun"])
def test_ranks_whose_launcher_was_killed_leave_a_checkpoint(tiny_store, tmp_path, launcher):
    settings = [*SMALL, *STEPS, f"directory={tmp_path}", f"data.store={tiny_store}"]
    line = command("pretrain.py", settings, ranks=2)
    if launcher == "torchrun":
        script = line[line.index(str(ROOT / "launch" / "pretrain.py")) :]
        line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", *script]
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(
            line, cwd=ROOT, env=environment(), stdout=log, stderr=subprocess.STDOUT
        )
        while len(ledger(tmp_path)) < 3:
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
        (family[0] if "inner" in launcher else process).kill()
        process.wait()
        left = psutil.wait_procs(family, timeout=60)[1]
        output = (tmp_path / "log").read_text()
        assert not left, output
    done = len(ledger(tmp_path))
    assert "is gone; the run ends as on SIGTERM" in output
    assert f"SIGTERM ended the run after step {done}" in output
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [f"step-{done:08d}"]
    assert 3 <= done < 120 == len(pretrain(tmp_path, tiny_store, *STEPS, ranks=2))
