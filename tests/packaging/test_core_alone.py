"""Without what the extras bring, everything imports that should, and the core trains."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lxmert_dist.tracking import read_metrics
from runs import ROOT, environment, ledger

pytestmark = pytest.mark.distributed
ROOMS_OF_EXTRAS = (
    "lxmert_dist.cluster.ray_worker",
    "lxmert_dist.detect",
    "lxmert_dist.predict.mlflow_model",
)
"""The modules that need one as soon as they are imported; who uses them says which."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The directory, and what the process said at its end and on the way."""
    directory = tmp_path_factory.mktemp("alone")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "core_alone.py"), str(directory)],
        env=environment({"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}),
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return directory, json.loads(done.stdout.splitlines()[-1]), done


def test_every_module_of_the_core_imports(alone):
    _, report, _ = alone
    assert [name for name in report["refused"] if not name.startswith(ROOMS_OF_EXTRAS)] == []
    assert set(ROOMS_OF_EXTRAS) <= report["refused"].keys()  # so they were missing indeed


def test_it_trains_and_says_what_is_missing(alone):
    directory, report, done = alone
    assert report["code"] == 0, done.stderr
    assert len(ledger(directory / "run")) == 2
    log = read_metrics(directory / "run" / "metrics.jsonl")
    assert any("valid/loss" in line or "valid/masked_lm" in line for _, line in log)
    assert "pip install 'lxmert_dist[mlflow]'" in done.stderr
    assert "pip install 'lxmert_dist[plot]'" in done.stderr
    assert "2 steps" in done.stdout


def test_importing_the_package_imports_nothing_else():
    code = "import sys; before = set(sys.modules); import lxmert_dist; "
    code += "print(sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "['lxmert_dist']"
