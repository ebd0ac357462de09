"""Where a reader of a page is: a directory with ``launch/`` and ``configs/``, and a shell.

Commands are run as they stand on the page. What is around them is made so that they take seconds:
settings files with a few steps of a small model, and of the package ``easy_vqa`` the first images.
``uv run`` runs a program of this environment, which is set up already.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from hosts import Host
from lxmert_dist.config.load import _apply, _lines, _read
from lxmert_dist.ingest.easy_vqa import package_data
from pages import Page
from runs import ROOT, environment

IMAGES = {"train": 420, "test": 60}
"""Of easy-VQA."""
_QUICK = ("train.max_steps=8", "train.log_every=2", "train.threads=1")
_SMALL = (*_QUICK, "model.hidden_size=32", "model.num_heads=2", "model.intermediate_size=64")
_PUBLISHED = (
    *_QUICK,
    "data.lanes=2",
    "data.window_shards=1",
    "train.global_batch_size=8",
    "train.micro_batch_size=8",
    "train.precision=fp32",
    "train.validation_pairs=16",
    "model.hidden_size=64",
    "model.num_heads=1",
    "model.intermediate_size=128",
)
"""As many layers as published, but narrow ones."""
_DETECTOR = (
    "resnet.width=2",
    "input.short_side=64",
    "input.long_side=64",
    "training.steps=4",
    "training.batch_images=2",
    "training.validate_every=2",
    "training.validation_images=4",
)
_CHANGES = {
    "pretrain/easy_vqa.toml": (*_SMALL, "train.global_batch_size=32", "train.micro_batch_size=32"),
    "finetune/easy_vqa.toml": (*_SMALL, "train.global_batch_size=32", "train.micro_batch_size=32"),
    "pretrain/lxmert.toml": (*_PUBLISHED, "checkpoint.every=4"),
    **{f"finetune/{name}.toml": _PUBLISHED for name in ("vqa", "gqa", "nlvr2", "own")},
    "detector/easy_vqa.toml": _DETECTOR,
    "detector/nlvr1.toml": _DETECTOR,
    "ablations/easy_vqa.toml": ("seeds=[1]",),
}
_ROWS = 3
"""Of an ablation study."""
_UV = """
[ "$1" = run ] || exit 64
shift
case "$1" in *.py) set -- python "$@";; esac
exec "$@"
"""
_SHIMS = {"uv": _UV, "pip": '[ "$*" = "install uv" ]  # it is there'}
START_S = 180
"""What a server may take to answer."""


class Workplace:
    """A reader's directory, ``home``."""

    def __init__(self, folder: Path, *, small: bool = True) -> None:
        """``folder`` takes all of it; without ``small`` settings and data are the real ones."""
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        (self.home / "launch").symlink_to(ROOT / "launch")
        shutil.copy(ROOT / ".gitignore", self.home)
        shutil.copytree(ROOT / "configs", self.home / "configs")
        self.programs = folder / "programs"
        self.programs.mkdir()
        for name, script in _SHIMS.items():
            self.shim(name, script)
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        if small:
            _shrink(self.home / "configs")
            _write_easy_vqa(folder / "packages")
            paths.insert(0, str(folder / "packages"))
        kept = environment({"PYTHONPATH": os.pathsep.join(filter(None, paths))})
        kept["PATH"] = f"{self.programs}{os.pathsep}{kept['PATH']}"
        # What is compiled once for the machine stays where it is.
        extensions = Path.home() / ".cache" / "torch_extensions"
        kept = {"TORCH_EXTENSIONS_DIR": str(extensions), **kept, "HOME": str(self.home)}
        self.env = {k: v for k, v in kept.items() if not k.startswith("RAY_AUTH")}

    def shim(self, name: str, script: str) -> None:
        """Put a program first on the path."""
        file = self.programs / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def take(self, *folders: Path) -> "Workplace":
        """Have the files of these folders as well; big ones are not copied."""
        for folder in folders:
            shutil.copytree(folder, self.home, dirs_exist_ok=True, copy_function=_link)
        return self

    def run(self, text: str, kind: str = "bash") -> str:
        """Run a block to its end; returns what it said."""
        done = subprocess.run(
            _line(text, kind),
            cwd=self.home,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=1200,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}"
        # Of a command that is called as a function, the code is lost.
        assert "\nerror: " not in f"\n{done.stdout}", f"{text}\n{done.stdout}"
        return done.stdout

    def run_on(self, host: Host, text: str, **env: str) -> str:
        """The same on a host; what goes on there in the background ends with the host."""
        done = host.run(self.on(text), env=self.env_of(**env), timeout=600)
        assert done.code == 0, f"{text}\n{done.output}"
        return done.output

    def on(self, text: str) -> list[str]:
        """The command line for a host."""
        return ["env", f"--chdir={self.home}", "-u", "RAY_AUTH_MODE", "-u", "RAY_AUTH_TOKEN",
                *_line(text, "bash")]  # fmt: skip

    def env_of(self, **more: str) -> dict[str, str]:
        return self.env | more

    def ask(self, text: str, path: str, data: Mapping[str, object] | None = None) -> str:
        """Start a block that serves HTTP and does not end; ask it once, and end it.

        Returns:
            The answer, which must be one of success.
        """
        port = _free_port()
        log = self.home.parent / "server.log"
        with log.open("w") as output:
            server = subprocess.Popen(
                _line(text, "bash"),
                cwd=self.home,
                env=self.env | {"MLFLOW_PORT": str(port)},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}", body, {"Content-Type": "application/json"}
        )
        deadline = time.monotonic() + START_S
        try:
            while server.poll() is None and time.monotonic() < deadline:
                with (
                    contextlib.suppress(OSError),
                    urllib.request.urlopen(request, timeout=60) as answer,
                ):
                    return str(answer.read().decode())
                time.sleep(0.5)
            raise AssertionError(f"{text}\n{log.read_text()}")
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


Special = Mapping[str, Callable[[str], str]]
"""How blocks that begin like this are run, if not by ``Workplace.run``."""


def run_page(name: str, workplace: Workplace, special: Special | None = None) -> list[str]:
    """Run all blocks of a page, in order; returns what each of them said."""
    special = special or {}
    said, met = [], set()
    for block in Page(name).blocks:
        begins = [start for start in special if block.text.startswith(start)]
        met |= set(begins)
        if begins:
            said.append(special[begins[0]](block.text))
        else:
            said.append(workplace.run(block.text, block.kind))
    assert said
    assert met == special.keys(), "a block that was to be run otherwise is not on the page"
    return said


def servers(workplace: Workplace, question: Mapping[str, str]) -> dict[str, Callable[[str], str]]:
    """How blocks that serve are run; ``question`` is what a served model is asked."""
    records = {"dataframe_records": [dict(question)]}
    return {
        "uv run mlflow ui": lambda text: workplace.ask(text, "/"),
        "mlflow ui": lambda text: workplace.ask(text, "/"),
        "export MLFLOW_TRACKING_URI": lambda text: workplace.ask(text, "/invocations", records),
    }


def of_page(name: str, special: Special) -> dict[str, Callable[[str], str]]:
    """Those ways of running blocks that a page has a use for."""
    texts = [block.text for block in Page(name).blocks]
    return {k: v for k, v in special.items() if any(text.startswith(k) for text in texts)}


def _line(text: str, kind: str) -> list[str]:
    return ["bash", "-ec", text] if kind == "bash" else [sys.executable, "-c", text]


def _link(source: str, target: str) -> None:
    """As ``shutil.copy``; files that programs write to in place are copied."""
    if os.path.getsize(source) > 1 << 20 and not source.endswith(".db"):
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def _shrink(configs: Path) -> None:
    for name, changes in _CHANGES.items():
        tree = _read(configs / name)
        for change in changes:
            _apply(tree, change)
        if "rows" in tree:
            tree["rows"] = tree["rows"][:_ROWS]
        (configs / name).write_text("\n".join(_lines(tree, "")))


def _write_easy_vqa(packages: Path) -> None:
    """A package ``easy_vqa`` that has the first images of the real one."""
    real, data = package_data(), packages / "easy_vqa" / "data"
    for part, count in IMAGES.items():
        images = data / part / "images"
        images.mkdir(parents=True)
        for number in range(count):
            shutil.copy(real / part / "images" / f"{number}.png", images)
        asked = json.loads((real / part / "questions.json").read_text())
        kept = [entry for entry in asked if entry[2] < count]
        (data / part / "questions.json").write_text(json.dumps(kept))
    shutil.copy(real / "answers.txt", data)
    (packages / "easy_vqa" / "__init__.py").touch()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
