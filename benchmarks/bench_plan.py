"""What planning an epoch costs, and what the plan reads: bars P13 and P7.

``uv run benchmarks/bench_plan.py`` plans epochs of as many pairs as the published data have, with
their distribution over images and sources; nothing is read. Each row is a process of its own, so
that its peak memory is its own. The peers are the global permutations of numpy and of torch's
``DistributedSampler``, which need one read a pair. It writes ``results/plan.json`` and
``RESULTS.md``; ``--smoke`` takes few images, one process, and writes nothing.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from lxmert_dist import keyed
from lxmert_dist.ingest.synthetic import SyntheticImages
from lxmert_dist.keyed import Purpose
from lxmert_dist.stream.loader import index_pairs
from lxmert_dist.stream.passes import pairs_by_source, pairs_of_pass, plan_passes
from lxmert_dist.stream.plan import PlanSettings, lanes_of_rank, plan_epoch
from lxmert_dist.stream.simulate import simulate_epoch
from record import log_to_mlflow, new_record, write_record
from report import render

SOURCES = ["gqa", "mscoco", "vg", "visual7w", "vqa"]
IMAGES_PER_SHARD = 64
SHARD_BYTES = IMAGES_PER_SHARD * 36 * 2048 * 2
HALVES = dict.fromkeys(SOURCES, 0.5)
EPOCHS = 3
AHEAD = 4
"""Steps that are read ahead."""


def main() -> None:
    """Run every row, and keep the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=180_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--smoke", action="store_true", help="few images, and nothing is written")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    images, lanes = (2_000, 8) if arguments.smoke else (arguments.images, 64)
    plan = PlanSettings(lanes, 8, arguments.batch)
    if arguments.row:
        print(json.dumps(ROWS[arguments.row](images, plan)))
        return
    record = new_record("plan")
    record["versions"] = {"numpy": version("numpy"), "torch": version("torch")}
    record |= {"images": images, "rows": {}, "reads": []}
    for name, row in ROWS.items():
        found = row(images, plan) if arguments.smoke else in_own_process(name)
        record["rows"][name] = found
        print(f"{name}: {record['rows'][name]}")
    for world_size in (1, lanes // 8, lanes):
        record["reads"].append(reads(images, plan, world_size))
        print(record["reads"][-1])
    if not arguments.smoke:
        write_record(record)
        render()
        log_to_mlflow(record, figures(record))


def in_own_process(name: str) -> dict:
    """What a row says of itself."""
    line = [sys.executable, *sys.argv, "--row", name]
    done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def make_split(images: int) -> SimpleNamespace:
    """What a plan needs of a split: sentences by source as in the paper's table 1, shuffled."""
    counts = SyntheticImages(0, num_objects=1, feature_dim=1).counts(np.arange(images))
    counts = counts[keyed.permutation(images, 0, 0, Purpose.STORE_ORDER)]  # (N, 5)
    rows = np.repeat(np.arange(images, dtype=np.uint32), counts.sum(axis=1))
    sources = np.repeat(np.tile(np.arange(5, dtype=np.uint8), images), counts.ravel())
    table = SimpleNamespace(
        image_rows=rows, source_ids=sources, sources=SOURCES, num_pairs=len(rows)
    )
    return SimpleNamespace(sentences=table, images_per_shard=IMAGES_PER_SHARD)


def planned(parts: int, size: int = 1, weights: dict | None = None) -> Callable:
    """The row of one of ``parts`` ranks, which are fractions of the lanes: 1 has them all."""

    def row(images: int, plan: PlanSettings) -> dict:
        world_size = {1: 1, 8: plan.lanes // 8, 64: plan.lanes}[parts]
        split = make_split(images)
        index = index_pairs(split, ())
        settings = PlanSettings(plan.lanes, 8, plan.global_batch_size, size)
        amounts = pairs_by_source(split, ())
        passes = plan_passes(amounts, [(0, weights or {})], settings, epochs=EPOCHS)
        lanes = lanes_of_rank(plan.lanes, world_size // 2, world_size)

        def epoch(number: int) -> list:
            pairs = pairs_of_pass(split, index, passes[number], 1)
            return plan_epoch(pairs, settings, seed=1, epoch=number, lanes=lanes)

        def resume(number: int) -> tuple[list, np.ndarray]:
            step, found = passes[number].steps // 2, epoch(number)
            soon = [
                lane.shards[(lane.first_step <= step + AHEAD) & (lane.last_step >= step)]
                for lane in found
            ]
            return soon, np.concatenate([lane.pair_ids[step] for lane in found])

        return {
            "pairs": passes[0].steps * plan.global_batch_size,
            "index_bytes": index.pair_ids.nbytes + index.image_rows.nbytes,
            **measured(epoch),
            "resume_seconds": measured(resume)["seconds"],
        }

    return row


def numpy_permutation(images: int, _: PlanSettings) -> dict:
    """All pairs permuted by numpy."""
    pairs = make_split(images).sentences.num_pairs
    found = measured(lambda seed: np.random.default_rng(seed).permutation(pairs))
    return {"pairs": pairs, **found, "resume_seconds": found["seconds"]}


def torch_sampler(images: int, _: PlanSettings) -> dict:
    """The list of one of 64 ranks, as torch's DistributedSampler makes it."""
    from torch.utils.data import DistributedSampler

    pairs = make_split(images).sentences.num_pairs
    sampler = DistributedSampler(range(pairs), num_replicas=64, rank=32)

    def epoch(number: int) -> list[int]:
        sampler.set_epoch(number)
        return list(sampler)

    found = measured(epoch)
    return {"pairs": pairs, **found, "resume_seconds": found["seconds"]}


ROWS = {
    "all lanes": planned(1),
    "all lanes, groups of 4": planned(1, size=4),
    "all lanes, half of each source": planned(1, weights=HALVES),
    "8 lanes (1 of 8 ranks)": planned(8),
    "1 lane (1 of 64 ranks)": planned(64),
    "1 lane, groups of 4": planned(64, size=4),
    "1 lane, half of each source": planned(64, weights=HALVES),
    "numpy permutation": numpy_permutation,
    "torch DistributedSampler, 1 of 64": torch_sampler,
}


def measured(of_epoch: Callable[[int], object]) -> dict:
    """Median and worst CPU seconds, and the peak of memory above what was there before."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, seconds = memory("VmRSS"), []
    for number in range(EPOCHS):
        begun = time.process_time()
        of_epoch(number)
        seconds.append(time.process_time() - begun)
    return {
        "seconds": statistics.median(seconds),
        "worst_seconds": max(seconds),
        "peak_bytes": memory("VmHWM") - before,
    }


def memory(field: str) -> int:
    """A figure of this process's memory, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.findall(rf"{field}:\s+(\d+) kB", status)[0])


def reads(images: int, plan: PlanSettings, world_size: int) -> dict:
    """Bytes that all ranks read in an epoch over those in the store, and beside it what else."""
    index = index_pairs(make_split(images), ())
    shards = np.full(-(-images // IMAGES_PER_SHARD), SHARD_BYTES)
    load = simulate_epoch(
        index, plan, shards, seed=1, epoch=0, world_size=world_size, read_ahead_steps=AHEAD
    )
    return {
        "world_size": world_size,
        "read_ratio": load.read_ratio,
        "imbalance": load.imbalance,
        "window_bytes": int(max(own.window_bytes.max() for own in load.ranks)),
        "repeats": float(load.repeats.mean()),
        "left_out": load.left_out,
        "one_read_a_pair": len(index) / images,
    }


def figures(record: dict) -> dict[str, float]:
    """The numbers by name, for MLflow."""
    rows = {
        f"{re.sub('[^a-z0-9]+', '_', name.lower())}_{field}": value
        for name, row in record["rows"].items()
        for field, value in row.items()
    }
    ratios = {f"read_ratio_{row['world_size']}": row["read_ratio"] for row in record["reads"]}
    return rows | ratios


if __name__ == "__main__":
    main()
