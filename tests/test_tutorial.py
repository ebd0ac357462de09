"""Every command of launch/README.md, in order, as a newcomer would type it."""

import os
import re
import subprocess
import sys

import pytest

from runs import ROOT, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

BLOCK = re.compile(r"```(python|bash)\n(.*?)```", re.S)


def test_from_photographs_to_an_answer(tmp_path):
    blocks = BLOCK.findall((ROOT / "launch" / "README.md").read_text())
    assert len(blocks) == 7
    for name in ("launch", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    env = environment({"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"})
    for kind, text in blocks:
        line = ["bash", "-ec", text] if kind == "bash" else [sys.executable, "-c", text]
        done = subprocess.run(
            line, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    assert re.search(r"\d\s+\w+\s+0\.\d+", done.stdout), done.stdout  # an answer and its score
    for file in ("predictions.jsonl", "runs/mine_tuned/report.html"):
        assert (tmp_path / file).stat().st_size > 0
    assert list((tmp_path / "pictures").rglob("*.png"))
