"""Bars: over themselves in a terminal and a notebook, a line now and then in a log."""

import builtins
import io
import os
import pty
import subprocess
import sys
import termios

import pytest

from lxmert_dist.cli.verify import main as verify
from lxmert_dist.progress import drawn_over
from lxmert_dist.train.meter import Progress
from runs import ROOT, environment

STEPS = """
import time
from lxmert_dist.train.meter import Progress
with Progress(20, 0, enabled=True) as bar:
    for _ in range(20):
        bar.advance()
        time.sleep(0.02)
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def notebook(monkeypatch):
    monkeypatch.setattr(builtins, "__IPYTHON__", True, raising=False)


def test_a_terminal_and_a_notebook_are_drawn_over_and_a_log_is_not(monkeypatch, request):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not drawn_over()
    request.getfixturevalue("notebook")
    assert drawn_over()
    monkeypatch.delattr(builtins, "__IPYTHON__")
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert drawn_over()


def test_a_bar_of_a_terminal_is_on_stderr_and_drawn_over_itself():
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 80))
    process = subprocess.Popen(
        [sys.executable, "-c", STEPS],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=follower,
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(leader)
    assert process.communicate()[0] == b""
    assert process.returncode == 0
    text = shown.decode()
    assert text.count("\r") > 3
    assert "\n" not in text.strip()
    assert "20/20" in text
    assert "step/s" in text


def test_a_log_has_the_first_and_the_last_state(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with Progress(20, 0, enabled=True) as bar:
        for _ in range(20):
            bar.advance()
    assert log.getvalue().count("\r") == 2
    assert "20/20" in log.getvalue()


def test_what_draws_in_terminals_alone_draws_in_notebooks_too(tiny_store, capsys, request):
    assert verify([tiny_store]) == 0
    assert capsys.readouterr().err == ""
    request.getfixturevalue("notebook")
    assert verify([tiny_store]) == 0
    assert "verify: 100%" in capsys.readouterr().err
