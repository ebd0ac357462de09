"""A disk that is full of checkpoints ends a run in an error; with more room the run goes on."""

import ctypes
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from lxmert_dist.cli import pretrain as command
from lxmert_dist.train.checkpoint import Checkpoints
from ranks import called
from runs import NO_DROPOUT, SMALL, ledger, pretrain

CLONE_NEWNS = 0x00020000
NO_NAMESPACE = 77
pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]


def on_a_small_disk(
    rank: int, size: int, place: str, room: int, line: Sequence[str], record: str
) -> None:
    """Run out of room on a disk that this process alone sees, make some, and run again."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
        os._exit(NO_NAMESPACE)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", place], check=True)
    codes = [command.main(list(line))]
    found = Checkpoints(place).latest()
    found.verify(Path(record).parent)
    step = found.state().step
    subprocess.run(["mount", "-o", f"remount,size={10 * room}", place], check=True)
    codes.append(command.main(list(line)))
    Path(record).write_text(json.dumps({"codes": codes, "step": step}))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk")
@pytest.mark.parametrize("background", ["true", "false"])
def test_a_full_disk_is_an_error_and_the_run_goes_on_with_more_room(
    tiny_store, tmp_path, background
):
    whole = pretrain(tmp_path / "whole", tiny_store, *NO_DROPOUT, "checkpoint.keep=3")
    kept = tmp_path / "whole" / "checkpoints"
    one = sum(f.stat().st_size for f in kept.rglob("*") if f.is_file()) // 3
    directory, disk, record = tmp_path / "run", tmp_path / "disk", tmp_path / "record"
    disk.mkdir()
    settings = [*SMALL, *NO_DROPOUT, f"directory={directory}", f"data.store={tiny_store}"]
    settings += [f"checkpoint.uri={disk}", "checkpoint.keep=3"]
    settings += [f"checkpoint.background={background}"]
    line = [word for setting in settings for word in ("--set", setting)]
    with called(on_a_small_disk, 1, str(disk), int(2.5 * one), line, str(record)) as ranks:
        codes = ranks.wait(400)
        said = ranks.output
    if codes == [NO_NAMESPACE]:
        pytest.skip("this system allows no mount namespace")
    assert codes == [0], said
    assert json.loads(record.read_text()) == {"codes": [1, 0], "step": 8}
    [error] = [text for text in said.splitlines() if text.startswith("error: ")]
    for part in (str(disk), "step-00000012", "no space left", "free some", "checkpoint.uri"):
        assert part in error
    assert "resumed from step 8" in said
    assert ledger(directory) == whole
