"""Two commands never train in one directory at once."""

import signal
import subprocess
import sys

import pytest

from lxmert_dist.errors import CheckpointError
from lxmert_dist.train.claim import claim
from runs import SMALL, command, environment

HOLDER = """
import sys, time
from pathlib import Path
from lxmert_dist.train.claim import claim
with claim(Path(sys.argv[1]), 0):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(directory, seconds):
    """A process that holds the directory for so long."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory), str(seconds)],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_command_is_refused_until_the_first_one_is_killed(tmp_path):
    with holder(tmp_path, 100) as other:
        refused = pytest.raises(CheckpointError, match=f"process {other.pid} of .* trains here")
        with refused, claim(tmp_path, 0.3):
            raise AssertionError("both hold it")
        other.send_signal(signal.SIGKILL)
        other.wait()
        with claim(tmp_path, 0):
            pass
    with claim(tmp_path, 0):
        pass


def test_one_that_ends_in_time_is_waited_for(tmp_path, capsys):
    with holder(tmp_path, 1) as other, claim(tmp_path, 60):
        assert other.wait() == 0
    assert f"waiting for process {other.pid} of" in capsys.readouterr().err


def test_what_a_run_raises_passes_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), claim(tmp_path, 0):
        (tmp_path / "absent").read_text()
    (tmp_path / "file").write_text("")
    refused = pytest.raises(CheckpointError, match="file: cannot be written")
    with refused, claim(tmp_path / "file", 0):
        pass


@pytest.mark.slow
def test_pretraining_ends_where_another_one_trains(tiny_store, tmp_path):
    settings = [*SMALL, f"directory={tmp_path}", f"data.store={tiny_store}"]
    line = command("pretrain.py", [*settings, "checkpoint.grace_seconds=1"], ranks=2)
    with holder(tmp_path, 100) as other:
        done = subprocess.run(
            line, env=environment(), capture_output=True, text=True, check=False, timeout=120
        )
        other.kill()
    assert done.returncode
    assert f"process {other.pid} of" in done.stderr + done.stdout
    assert not (tmp_path / "checkpoints").exists()
