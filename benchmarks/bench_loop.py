"""What our loop costs over a bare one (P8), and a checkpoint over ``torch.save`` in the loop (P10).

``uv run benchmarks/bench_loop.py`` trains the published 9/5/5 model twice, each in a process of its
own: ours with everything on (DeepSpeed ZeRO-1, streaming from a store, metrics and MLflow, ledger,
checkpoints), and a bare PyTorch loop over the same batches in memory. Steps alternate: while one
makes a step the other is stopped by a signal, threads and all, so that what works behind the
training is counted where it belongs. It writes ``results/loop.json``, MLflow and ``RESULTS.md``.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from torch import Tensor
from tqdm import tqdm

from lxmert_dist.config import PretrainConfig, load_config
from lxmert_dist.schema import MicroBatch
from lxmert_dist.stream.loader import Position
from lxmert_dist.tracking import read_metrics
from lxmert_dist.train import loop
from lxmert_dist.train.job import Job, build
from lxmert_dist.train.optimizer import build_optimizer, learning_rate
from lxmert_dist.train.run import run
from lxmert_dist.train.world import World, join, leave
from record import log_to_mlflow, new_record, write_record
from report import render

ROOT = Path(__file__).parent.parent
NAMES = ("bare", "ours")
SMOKE = (
    "model.hidden_size=32",
    "model.num_heads=2",
    "model.intermediate_size=64",
    "model.num_language_layers=1",
    "model.num_relationship_layers=1",
    "model.num_cross_layers=1",
)


def main() -> None:
    """Measure what the arguments say."""
    arguments = parse()
    if arguments.alone:
        (ours if arguments.alone == "ours" else bare)(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments.directory = arguments.directory or folder
        make_store(arguments)
        config = config_of(arguments)
        record = new_record("loop", config.fingerprint())
        record["settings"] = {
            key: getattr(arguments, key)
            for key in ("batch", "precision", "zero_stage", "rounds", "warm_up", "every")
        }
        record |= measure(arguments)
    if not arguments.smoke:
        write_record(record)
        log_to_mlflow(record, {key: record[key] for key in ("ratio", "cpu_ratio", "stall_ratio")})
        render()
    print(table(record))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=32, help="pairs of a step (default 32)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--zero-stage", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30, help="timed steps of each (default 30)")
    parser.add_argument("--warm-up", type=int, default=3, help="untimed steps (default 3)")
    parser.add_argument(
        "--every", type=int, default=10, help="steps between two checkpoints (default 10)"
    )
    parser.add_argument("--images", type=int, default=512, help="of the store (default 512)")
    parser.add_argument("--directory", help="where store and checkpoints go (default: temporary)")
    parser.add_argument("--smoke", action="store_true", help="a tiny model; nothing is written")
    parser.add_argument("--alone", choices=NAMES, help=argparse.SUPPRESS)
    return parser.parse_args()


def config_of(arguments: argparse.Namespace) -> PretrainConfig:
    """The published recipe on a store of our making, at the benchmark's size."""
    place = arguments.directory
    chosen = [
        f"directory={place}/run",
        f"data.store={place}/store",
        "data.lanes=8",
        "data.window_shards=2",
        f"train.global_batch_size={arguments.batch}",
        f"train.micro_batch_size={arguments.batch}",
        f"train.precision={arguments.precision}",
        f"train.zero_stage={arguments.zero_stage}",
        "train.epochs=1000",
        "data.validation_split=train",
        "train.validation_pairs=8",
        "train.log_every=2",
        f"checkpoint.every={arguments.every}",
        "checkpoint.keep=1",
    ]
    if arguments.smoke:
        chosen += SMOKE
    return load_config(PretrainConfig, ROOT / "configs/pretrain/lxmert.toml", chosen)


def make_store(arguments: argparse.Namespace) -> None:
    """Invented images with as many sentences, as long ones and as large features as LXMERT's."""
    place = Path(arguments.directory) / "store"
    if place.exists():
        return
    line = [sys.executable, str(ROOT / "launch" / "prepare.py"), "synthetic", "--out", str(place)]
    line += ["--images", str(arguments.images)]
    if arguments.smoke:
        line += ["--boxes", "4", "--feature-dim", "16"]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)


# ---- the two contestants, each in a process of its own; a line on stdout for each step


def ours(arguments: argparse.Namespace) -> None:
    """The real loop; its progress bar tells the steps."""

    class Steps(loop.Progress):
        def advance(self) -> None:
            print("step", flush=True)

    loop.Progress = Steps
    world = World()
    join(world, timeout_seconds=600)
    try:
        run(config_of(arguments), world, "process")
    finally:
        leave(world)


def bare(arguments: argparse.Namespace) -> None:
    """Forward, backward, clipping, optimiser, schedule; the loss is looked at every step."""
    config = config_of(arguments)
    job = build(config)
    batches = in_memory(job, arguments.every)
    task = job.task.bfloat16() if arguments.precision == "bf16" else job.task
    params = [p for p in task.parameters() if p.requires_grad]
    optimizer = build_optimizer(config.optimizer, params)
    task.train()
    step = 0
    while True:
        for batch in batches:
            loss = loss_of(job, batch, step)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(params, config.optimizer.clip_norm)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config.optimizer, step, job.total_steps)
            optimizer.step()
            optimizer.zero_grad()
            if not torch.isfinite(loss).item():
                raise SystemExit("the bare loop's loss is not finite")
            step += 1
            print("step", flush=True)
        began = time.perf_counter()
        state = {"model": task.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        torch.save(state, Path(arguments.directory) / "bare.pt")
        print("saved", time.perf_counter() - began, flush=True)


def in_memory(job: Job, number: int) -> list[MicroBatch]:
    """The first batches that our loop trains on."""
    with job.loader(World(), Position()) as loader:
        return [batch.micro_batches[0] for batch in loop.take(loader, number)]


def loss_of(job: Job, batch: MicroBatch, step: int) -> Tensor:
    """The total of the weighted means, as our loop has it."""
    report = job.task(batch)
    weights = job.task.loss_weights_at(step)
    terms = [weights[n] * report.losses[n] / max(batch.counts[n], 1.0) for n in weights]
    return torch.stack(terms).sum()


# ---- the measurement


class Runner:
    """A contestant that makes one step at a time, and stands still in between."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        line = [sys.executable, __file__, "--alone", name, "--directory", arguments.directory]
        for key in ("batch", "precision", "zero_stage", "every"):
            line += ["--" + key.replace("_", "-"), str(getattr(arguments, key))]
        line += ["--smoke"] if arguments.smoke else []
        self.process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
        self._times = psutil.Process(self.process.pid)
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.saves: list[float] = []

    def step(self) -> None:
        """Let it go on to the end of its next step, of which a save is no part."""
        used, began = self._cpu(), time.perf_counter()
        os.kill(self.process.pid, signal.SIGCONT)
        saving = 0.0
        for line in self.process.stdout:
            word, *rest = line.split()
            if word == "step":
                break
            if word == "saved":
                self.saves.append(float(rest[0]))
                saving, used = time.perf_counter() - began, self._cpu()
        else:
            raise SystemExit("a contestant ended before its time")
        self.wall.append(time.perf_counter() - began - saving)
        os.kill(self.process.pid, signal.SIGSTOP)
        self.cpu.append(self._cpu() - used)

    def _cpu(self) -> float:
        times = self._times.cpu_times()
        return times.user + times.system


@contextmanager
def runners(arguments: argparse.Namespace) -> Iterator[dict[str, Runner]]:
    """Both, warmed up one after the other."""
    started: dict[str, Runner] = {}
    try:
        for name in NAMES:
            started[name] = Runner(name, arguments)
            for _ in range(arguments.warm_up):
                started[name].step()
        yield started
    finally:
        for runner in started.values():
            runner.process.kill()
            runner.process.wait()


def measure(arguments: argparse.Namespace) -> dict:
    """Alternate steps; ratios round by round, since noise of a shared machine strikes both."""
    with runners(arguments) as both:
        for _ in tqdm(range(arguments.rounds), unit="round"):
            for runner in both.values():
                runner.step()
        wall = {name: runner.wall[arguments.warm_up :] for name, runner in both.items()}
        cpu = {name: runner.cpu[arguments.warm_up :] for name, runner in both.items()}
        saves = both["bare"].saves
    log = read_metrics(Path(arguments.directory) / "run" / "metrics.jsonl")
    stalls = [
        metrics["checkpoint/stall_seconds"]
        for _, metrics in log
        if "checkpoint/stall_seconds" in metrics
    ]
    found = {
        name: {
            "seconds": statistics.median(wall[name]),
            "spread": [min(wall[name]), max(wall[name])],
            "mean_seconds": statistics.mean(wall[name]),
            "cpu_seconds": statistics.median(cpu[name]),
            "mean_cpu_seconds": statistics.mean(cpu[name]),
        }
        for name in NAMES
    }
    rounds = zip(wall["ours"], wall["bare"], strict=True)
    return {
        **found,
        "ratio": statistics.median(mine / theirs for mine, theirs in rounds),
        "mean_ratio": found["ours"]["mean_seconds"] / found["bare"]["mean_seconds"],
        "cpu_ratio": found["ours"]["cpu_seconds"] / found["bare"]["cpu_seconds"],
        "stalls": stalls,
        "saves": saves,
        "stall_ratio": statistics.median(stalls) / statistics.median(saves),
    }


def table(record: dict) -> str:
    """For people."""
    lines = [
        f"step {record['ratio']:.3f}x the bare loop's, {record['cpu_ratio']:.3f}x by CPU time; "
        f"{record['mean_ratio']:.3f}x on average, checkpoints and all"
    ]
    for name in NAMES:
        part = record[name]
        least, most = part["spread"]
        lines.append(
            f"  {name}: {part['seconds']:.3f} s ({least:.3f}-{most:.3f}), "
            f"{part['cpu_seconds']:.3f} CPU-s"
        )
    lines.append(
        f"a checkpoint stalls {record['stall_ratio']:.3f}x as long as torch.save: "
        f"{statistics.median(record['stalls']):.3f} of {statistics.median(record['saves']):.3f} s"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
