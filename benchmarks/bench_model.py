"""Whole training steps of ours and of transformers' LXMERT, alternating in one run.

``uv run benchmarks/bench_model.py`` times forward, backward, clipping and optimiser on the same
batches of real lengths, says the largest difference of the losses, counts FLOPs, measures the peak
memory of each in a process of its own, and writes ``results/model_<device>.json``, MLflow and
``RESULTS.md``. The same script runs on a GPU: ``--device cuda --batch 256``.

Groups: ``k=4`` is image grouping; the peer sees the same pairs, each with a copy of its image.
``--task answering`` times fine-tuning on 3,129 answers instead, and writes ``answering_<device>``.
"""

import argparse
import gc
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from contestants import Contestant, build
from lxmert_dist.model.linear import product
from lxmert_dist.schema import MicroBatch
from model_batch import make_batch, packed_share
from model_profile import profile
from record import log_to_mlflow, new_record, write_record
from report import render

GROUPS = (1, 4)


def main() -> None:
    """Measure what the arguments say."""
    arguments = parse()
    if arguments.alone:
        print(json.dumps(peak_memory(arguments)))
        return
    if arguments.profile:
        print(profile(build("ours", arguments), batch_of(arguments, arguments.group)))
        return
    name = "model" if arguments.task == "pretraining" else arguments.task
    record = new_record(f"{name}_{arguments.device}", "", device=arguments.device)
    record["command"] = " ".join(["benchmarks/bench_model.py", *sys.argv[1:]])
    record["settings"] = {k: v for k, v in vars(arguments).items() if k not in ("alone", "profile")}
    record["rows"] = []
    for precision in arguments.precision:
        settings = argparse.Namespace(**{**vars(arguments), "precision": precision})
        record["rows"] += measure(settings)
    if not arguments.smoke:
        write_record(record)
        log_to_mlflow(record, figures(record["rows"]))
        render()
    print(table(record["rows"]))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=("pretraining", "answering"), default="pretraining")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), nargs="+", default=["fp32", "bf16"]
    )
    parser.add_argument("--batch", type=int, default=32, help="pairs of a step (default 32)")
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each (default 7)")
    parser.add_argument("--warm-up", type=int, default=2, help="untimed steps of each (default 2)")
    parser.add_argument("--dropout", type=float, default=0.1, help="of both models (default 0.1)")
    parser.add_argument(
        "--peak-tflops",
        type=float,
        default=0.0,
        help="of the device, for utilisation (default: measured with one large product)",
    )
    parser.add_argument("--compile", action="store_true", help="compile both models")
    parser.add_argument("--checkpointing", action="store_true", help="recompute ours' activations")
    parser.add_argument("--profile", action="store_true", help="where ours' step goes, by room")
    parser.add_argument("--smoke", action="store_true", help="a tiny model; nothing is written")
    parser.add_argument("--alone", choices=("peer", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--group", type=int, default=1, help="pairs an image, for --profile")
    arguments = parser.parse_args()
    if arguments.alone or arguments.profile:
        arguments.precision = arguments.precision[0]
    return arguments


def batch_of(arguments: argparse.Namespace, group: int) -> MicroBatch:
    """The batch of a group size, on the device."""
    with tempfile.TemporaryDirectory() as folder:
        batch = make_batch(
            Path(folder),
            arguments.batch,
            group,
            task=arguments.task,
            multiple=128 if arguments.compile else 1,
        )
    return batch.to(torch.device(arguments.device))


def measure(arguments: argparse.Namespace) -> list[dict]:
    """One row for each group size: the peer, and ours, in one precision."""
    peer, ours = build("peer", arguments), build("ours", arguments)
    ours.take_weights(peer)
    batches = {group: batch_of(arguments, group) for group in GROUPS}
    rows = [
        {
            "precision": arguments.precision,
            "pairs_per_image": group,
            "packed_share": packed_share(batch),
            "loss_difference": loss_difference(peer, ours, batch),
            "peer": {"flops": flops(peer, batch)},
            "ours": {"flops": flops(ours, batch)},
        }
        for group, batch in batches.items()
    ]
    best = best_flops_per_second(arguments)
    for row in rows:
        row["best_flops_per_second"] = best
        batch = batches[row["pairs_per_image"]]
        race(row, {"peer": peer, "ours": ours}, batch, arguments)
    del peer, ours
    gc.collect()
    for row in rows:
        for name in ("peer", "ours"):
            row[name] |= memory_alone(name, row["pairs_per_image"], arguments)
    return rows


def race(
    row: dict, runners: dict[str, Contestant], batch: MicroBatch, arguments: argparse.Namespace
) -> None:
    """Alternate steps; note medians, CPU-seconds and the ratio."""
    wall, cpu = ({name: [] for name in runners} for _ in range(2))
    rounds = range(-arguments.warm_up, arguments.rounds)
    label = f"{arguments.precision} k={row['pairs_per_image']}"
    for number in tqdm(rounds, desc=label, unit="round"):
        for name, runner in runners.items():
            started, used = time.perf_counter(), time.process_time()
            runner.step(batch)
            runner.wait()
            if number >= 0:
                wall[name].append(time.perf_counter() - started)
                cpu[name].append(time.process_time() - used)
    for name in runners:
        seconds = statistics.median(wall[name])
        row[name] |= {
            "seconds": seconds,
            "spread": [min(wall[name]), max(wall[name])],
            "cpu_seconds": statistics.median(cpu[name]),
            "pairs_per_second": arguments.batch / seconds,
            "utilisation": row[name]["flops"] / seconds / row["best_flops_per_second"],
        }
    # Noise of a shared machine strikes both: the ratio is taken round by round.
    pairs = zip(wall["peer"], wall["ours"], strict=True)
    row["ratio"] = statistics.median(theirs / mine for theirs, mine in pairs)
    row["cpu_ratio"] = row["peer"]["cpu_seconds"] / row["ours"]["cpu_seconds"]


def loss_difference(peer: Contestant, ours: Contestant, batch: MicroBatch) -> float:
    """Of the total loss, relative; without dropout and before any update."""
    with torch.no_grad():
        totals = []
        for runner in (peer, ours):
            runner.module.eval()
            totals.append(float(runner.loss(batch)))
            runner.module.train()
    return abs(totals[1] - totals[0]) / abs(totals[0])


def flops(runner: Contestant, batch: MicroBatch) -> int:
    """Floating-point operations of forward and backward, 2 a multiply-add."""
    products = {torch.ops.mkldnn._linear_pointwise: _product_flops}
    with FlopCounterMode(display=False, custom_mapping=products) as counter:
        runner.loss(batch).backward()
    runner.module.zero_grad(set_to_none=True)
    return counter.get_total_flops()


def _product_flops(rows: list[int], weight: list[int], *_: object, **__: object) -> int:
    """Of rows (N, I) by weight (H, I)."""
    return 2 * rows[0] * rows[1] * weight[0]


def best_flops_per_second(arguments: argparse.Namespace) -> float:
    """What a single large product reaches here; utilisation is the share of it, or of --peak."""
    if arguments.peak_tflops:
        return arguments.peak_tflops * 1e12
    size = 8192 if arguments.device == "cuda" else 2048
    dtype = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    left, right = torch.randn(2, size, size, device=arguments.device, dtype=dtype)
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        product(left, right, None)
        if arguments.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def memory_alone(name: str, group: int, arguments: argparse.Namespace) -> dict:
    """Peak memory of a contestant's steps in a process of its own."""
    line = [sys.executable, __file__, "--alone", name, "--group", str(group)]
    for key in ("task", "device", "precision", "batch", "dropout"):
        line += [f"--{key}", str(getattr(arguments, key))]
    line += [f"--{key}" for key in ("compile", "checkpointing", "smoke") if getattr(arguments, key)]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak_memory(arguments: argparse.Namespace) -> dict:
    """Bytes at most during a step: of tensors, and of the process; and of the state that stays.

    The state is weights, masters and moments. What the process holds beyond the tensors are
    libraries, and a heap that does not give back what it once had.
    """
    batch = batch_of(arguments, arguments.group)
    runner = build(arguments.alone, arguments)
    for _ in range(2):
        runner.step(batch)
    state = runner.state_bytes()
    extra = peak_step_bytes(runner, batch)
    # Not getrusage: its maximum is inherited from the parent process.
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    resident = int(status["VmHWM"].split()[0]) * 1024
    return {"state_bytes": state, "step_bytes": extra, "resident_bytes": resident}


def peak_step_bytes(runner: Contestant, batch: MicroBatch) -> int:
    """What tensors take at most during a step beside what was there before."""
    if runner.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        runner.step(batch)
        runner.wait()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True) as profiler:
        runner.step(batch)
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(e.nbytes() for e in sorted(events, key=_start)))


def _start(event) -> int:
    return event.start_ns()


def figures(rows: list[dict]) -> dict[str, float]:
    """The numbers of a run by name, for MLflow."""
    found = {}
    for row in rows:
        stem = f"{row['precision']}_k{row['pairs_per_image']}"
        found[f"{stem}_ratio"] = row["ratio"]
        found[f"{stem}_pairs_per_second"] = row["ours"]["pairs_per_second"]
        found[f"{stem}_step_memory_ratio"] = row["ours"]["step_bytes"] / row["peer"]["step_bytes"]
    return found


def table(rows: list[dict]) -> str:
    """For people."""
    return "\n".join(line for row in rows for line in lines_of(row))


def lines_of(row: dict) -> Iterable[str]:
    """One line for the pair, and one for each."""
    yield (
        f"{row['precision']} k={row['pairs_per_image']}: {row['ratio']:.2f}x the peer's pairs/s, "
        f"{row['cpu_ratio']:.2f}x by CPU time; losses differ by {row['loss_difference']:.1e}"
    )
    for name in ("peer", "ours"):
        part = row[name]
        least, most = part["spread"]
        yield (
            f"  {name}: {part['seconds']:.3f} s ({least:.3f}-{most:.3f}), "
            f"{part['pairs_per_second']:.2f} pairs/s, {part['cpu_seconds']:.3f} CPU-s, "
            f"{part['flops'] / 1e9:.0f} GFLOP, {part['utilisation']:.0%} utilisation, "
            f"{part['step_bytes'] / 2**30:.2f} GiB at most beside "
            f"{part['state_bytes'] / 2**30:.2f} of weights and moments, "
            f"{part['resident_bytes'] / 2**30:.2f} the whole process"
        )


if __name__ == "__main__":
    main()
