"""The wheel, in a clean environment without extras: commands, and the same from a notebook."""

import json
import shutil
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from runs import ROOT, SMALL, environment, ledger

pytestmark = [
    pytest.mark.slow,
    pytest.mark.distributed,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(shutil.which("uv") is None, reason="uv, which builds wheels, is not there"),
]
IMPORT_SECONDS = 0.3
"""What importing the package may take; 0.0002 was measured."""
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
OF_EXTRAS = {"ray", "grpcio", "mlflow", "torchvision", "scipy", "obstore", "matplotlib", "pytest"}
KINDS = ("execute_result", "stream", "display_data")
WIDGET = "application/vnd.jupyter.widget-view+json"
LAUNCH = sorted(path.stem for path in (ROOT / "launch").glob("*.py"))
SETTINGS = [s for s in SMALL if not s.startswith("tracking.")] + ["data.store=store"]


@dataclass(frozen=True)
class Installed:
    """An environment that has the wheel, and an empty directory to work in."""

    binaries: Path
    home: Path
    constraints: Path

    def run(self, name: str, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, which must end with this code."""
        env = environment({"PATH": f"{self.binaries}:/usr/bin:/bin"})
        env = {k: v for k, v in env.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        done = subprocess.run(
            [str(self.binaries / name), *arguments],
            cwd=self.home,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == code, done.stderr
        return done

    def install(self, *what: str) -> None:
        """Install more, in versions that are known to work together."""
        line = ["pip", "install", "--python", str(self.binaries / "python")]
        uv([*line, "--constraints", str(self.constraints), *what])


class Shown:
    """What a cell put out: its value, its text, and its bars as text beside a widget."""

    def __init__(self, outputs: Sequence[dict]) -> None:
        of_kind = {kind: [o for o in outputs if o["output_type"] == kind] for kind in KINDS}
        (result,) = of_kind["execute_result"]
        self.result = result["data"]["text/plain"]
        self.text = "".join(out["text"] for out in of_kind["stream"])
        drawn = [out["data"] for out in of_kind["display_data"]]
        self.bars = [data["text/plain"] for data in drawn if WIDGET in data]


def uv(arguments: Sequence[str]) -> str:
    """What uv says."""
    done = subprocess.run(
        ["uv", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=1200
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def words(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The core alone, with a store of made-up features."""
    place = tmp_path_factory.mktemp("wheel")
    uv(["build", "--quiet", "--wheel", "--out-dir", str(place / "dist")])
    (wheel,) = (place / "dist").glob("*.whl")
    uv(["venv", "--python", sys.executable, str(place / "venv")])
    constraints = place / "constraints.txt"
    constraints.write_text("\n".join(CONFIG["tool"]["uv"]["constraint-dependencies"]) + "\n")
    home = place / "home"
    home.mkdir()
    installed = Installed(place / "venv" / "bin", home, constraints)
    installed.install(str(wheel))
    line = "synthetic --out store --images 256 --boxes 4 --feature-dim 16 --processes 1"
    installed.run("lxmert-prepare", *line.split())
    yield installed
    shutil.rmtree(place / "venv")  # gigabytes, which the next would not find


def test_no_package_of_an_extra_came_along(installed):
    listed = uv(["pip", "list", "--format", "json", "--python", str(installed.binaries / "python")])
    assert {entry["name"] for entry in json.loads(listed)} & OF_EXTRAS == set()


def test_the_package_is_imported_in_no_time(installed):
    code = "import time; t = time.perf_counter(); import lxmert_dist; "
    code += "print(time.perf_counter() - t, lxmert_dist.__file__)"
    said = [installed.run("python", "-c", code).stdout.split() for _ in range(5)]
    assert all(Path(file).is_relative_to(installed.binaries.parent) for _, file in said)
    assert statistics.median(float(seconds) for seconds, _ in said) <= IMPORT_SECONDS


@pytest.mark.parametrize("name", LAUNCH)
def test_every_command_starts(installed, name):
    command = f"lxmert-{name.replace('_', '-')}"
    assert f"usage: {command}" in installed.run(command, "--help").stdout


def test_the_core_trains_and_names_the_extras_that_it_misses(installed):
    done = installed.run("lxmert-pretrain", *words("directory=run", *SETTINGS))
    assert len(ledger(installed.home / "run")) == 12
    for extra in ("mlflow", "plot"):
        assert f"pip install 'lxmert_dist[{extra}]'" in done.stderr
    assert "fine-tune:  lxmert-finetune --set init=run/checkpoints" in done.stdout
    assert "mlflow ui" not in done.stdout


def test_the_default_asks_for_the_extra_that_has_its_data(installed):
    done = installed.run("lxmert-pretrain", code=1)
    assert done.stderr.startswith("error: ")
    assert "pip install 'lxmert_dist[detect]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


INTERRUPT = """
import os, pathlib, signal, threading, time

def interrupt(ledger=pathlib.Path("notebook/ledger.jsonl")):
    while not ledger.exists() or ledger.read_text().count("\\n") < 3:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)  # as the button of a notebook does

threading.Thread(target=interrupt, daemon=True).start()
"""


def test_a_notebook_calls_commands_shows_bars_and_interrupts(installed):
    installed.install("nbclient", "ipykernel", "ipywidgets")
    more = ["directory=notebook", "train.max_steps=120", "checkpoint.every=60"]
    call = f"main({words(*SETTINGS, *more)})"
    cells = [
        f"{INTERRUPT}\nfrom lxmert_dist.cli.pretrain import main\n{call}",
        call,
        "from lxmert_dist.cli.verify import main as verify\nverify(['store'])",
    ]
    script = Path(__file__).parent / "notebook.py"
    done = installed.run("python", str(script), json.dumps(cells))
    interrupted, resumed, verified = (Shown(outputs) for outputs in json.loads(done.stdout))
    assert (interrupted.result, resumed.result, verified.result) == ("130", "0", "0")
    for shown, start in ((interrupted, "0/120"), (resumed, "/120"), (verified, "verify:")):
        assert any(start in bar for bar in shown.bars), shown
    assert "120 steps" in resumed.text
    assert "resumed from step" in resumed.text
