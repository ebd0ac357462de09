"""Runs of the real commands, as a user starts them, on a small store."""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lxmert_dist.config import PretrainConfig, load_config
from lxmert_dist.train.run import run as train
from lxmert_dist.train.world import World, join
from ranks import started

ROOT = Path(__file__).parent.parent
DEFAULTS = ROOT / "configs" / "pretrain" / "easy_vqa.toml"

SMALL = (
    "prepare=none",
    "data.lanes=4",
    "data.window_shards=2",
    "model.hidden_size=32",
    "model.num_heads=2",
    "model.intermediate_size=64",
    "model.num_language_layers=1",
    "model.num_relationship_layers=1",
    "model.num_cross_layers=1",
    "train.global_batch_size=32",
    "train.micro_batch_size=32",
    "train.epochs=1",
    "train.max_steps=12",
    "train.log_every=4",
    "train.threads=1",
    "checkpoint.every=4",
    "tracking.mlflow=false",
    "tracking.curves=false",
)
"""Twelve steps of a tiny model; three checkpoints."""


def at_stage(stage: int) -> list[str]:
    """Settings for a ZeRO stage, also on a single rank, which else shares nothing in fp32."""
    return [f"train.zero_stage={stage}", *(["train.offload_optimizer=true"] if stage else [])]


_RAY_TOKEN = secrets.token_hex(16)
"""Of the clusters that tests start: others on the network may not use them."""

NO_DROPOUT = ("model.hidden_dropout=0.0", "model.attention_dropout=0.0")


@dataclass(frozen=True)
class Finished:
    """A command that ended."""

    code: int
    output: str
    """Of both streams."""


def command(script: str, settings: Sequence[str], *, ranks: int = 1) -> list[str]:
    """The command line of a launch script; several ranks by the deepspeed launcher."""
    line = [str(ROOT / "launch" / script)]
    for setting in settings:
        line += ["--set", setting]
    if ranks == 1:
        return [sys.executable, *line]
    launcher = str(Path(sys.executable).parent / "deepspeed")
    port = str(20000 + os.getpid() % 20000)
    return [launcher, "--num_gpus", str(ranks), "--master_port", port, *line]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment, made for ranks on a CPU."""
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    path = f"{Path(sys.executable).parent}:{kept.get('PATH', '')}"
    ours = {"PATH": path, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    return {**kept, **ours, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _RAY_TOKEN, **(extra or {})}


def run(
    script: str,
    settings: Sequence[str],
    *,
    ranks: int = 1,
    env: Mapping[str, str] | None = None,
    timeout: float = 180,
) -> Finished:
    """Run a launch script to its end."""
    done = subprocess.run(
        command(script, settings, ranks=ranks),
        cwd=ROOT,
        env=environment(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Finished(done.returncode, done.stdout)


def pretrain(
    directory: Path,
    store: str,
    *settings: str,
    ranks: int = 1,
    apart: bool = False,
    timeout: float = 180,
) -> list[dict]:
    """Pretrain with ``SMALL`` settings; returns the ledger, one entry a step.

    A single rank runs in this process, which saves its start, unless it is to run ``apart``;
    several are forked from a server that has imported everything.
    """
    chosen = [*SMALL, f"directory={directory}", f"data.store={store}", *settings]
    if ranks == 1 and not apart:
        config = load_config(PretrainConfig, DEFAULTS, chosen)
        torch.set_num_threads(1)
        join(World(), timeout_seconds=60)
        train(config, World(), "process")
    else:
        with started(chosen, ranks) as running:
            assert set(running.wait(timeout)) == {0}, running.output
    return ledger(directory)


def ledger(directory: Path) -> list[dict]:
    """What each step trained on, and its losses; a line still being written is left out."""
    file = directory / "ledger.jsonl"
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def pretrain_and_kill(settings: Sequence[str], directory: Path, step: int) -> None:
    """Start pretraining as a process, and SIGKILL it once its ledger holds ``step`` steps."""
    process = subprocess.Popen(
        command("pretrain.py", settings),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while len(ledger(directory)) < step:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the run did not get there"
        time.sleep(0.005)
    process.kill()
    process.wait()


def pretrain_and_signal(
    settings: Sequence[str],
    directory: Path,
    step: int,
    number: int,
    *,
    ranks: int = 1,
    rank: int | None = None,
) -> tuple[list[int], str]:
    """Pretrain on forked ranks; once the ledger holds ``step`` steps, send a signal to all or one.

    Returns:
        The ranks' exit codes, and what they said.
    """
    with started(settings, ranks) as running:
        at_step(running, directory, step)
        for process in running.processes if rank is None else [running.processes[rank]]:
            os.kill(process.pid, number)
        return running.wait(), running.output


def at_step(run: Any, directory: Path, step: int, timeout: float = 300) -> None:
    """Wait until a run that goes on (``Ranks`` or ``hosts.Started``) has done so many steps."""
    run.wait_for(lambda: len(ledger(directory)) >= step, timeout)


def identities(entries: Sequence[Mapping]) -> list[str]:
    """What the steps trained on."""
    return [entry["identity"] for entry in entries]


def worst_difference(one: Sequence[Mapping], other: Sequence[Mapping]) -> float:
    """The largest relative difference of any loss of any step."""
    assert len(one) == len(other)
    worst = 0.0
    for a, b in zip(one, other, strict=True):
        assert a["losses"].keys() == b["losses"].keys()
        for name, value in a["losses"].items():
            worst = max(worst, abs(value - b["losses"][name]) / max(abs(value), 1e-12))
    return worst
