"""Ingest of published features against the floor: base64 and NumPy alone, over the same rows.

``uv run benchmarks/bench_ingest.py`` makes up a file of features at the published sizes, lets the
floor and whole shards of ours (read, decode, check, round, checksums, write, fsync) take turns on
one core, then runs the same shards in processes for their memory; it writes
``results/ingest.json`` and ``RESULTS.md``. The bar (P12) is half of the floor.
"""

import argparse
import base64
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pybase64
import torch

from lxmert_dist.ingest.butd_tsv import FIELDS, FeatureFile, RowSizes
from lxmert_dist.ingest.pool import Pool, available_processes
from lxmert_dist.ingest.shard_tasks import ShardTask, TsvRows, do
from lxmert_dist.store import ShardPlace
from lxmert_dist.store.shard import ImageSizes
from record import log_to_mlflow, new_record, write_record
from report import render

SHARD = 64


def main() -> None:
    """Measure, and record unless it is a smoke test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=512, help="of the file (default 512)")
    parser.add_argument("--rounds", type=int, default=7, help="(default 7)")
    parser.add_argument("--processes", type=int, default=available_processes())
    parser.add_argument("--smoke", action="store_true", help="tiny, and nothing is recorded")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = RowSizes(3, 8) if arguments.smoke else RowSizes()
    images = 2 * SHARD if arguments.smoke else arguments.images
    rounds = 1 if arguments.smoke else arguments.rounds
    with tempfile.TemporaryDirectory() as directory:
        tsv = make_tsv(Path(directory) / "features.tsv", images, sizes)
        tasks = make_tasks(tsv, f"{directory}/store", sizes)
        rows = [line.split(b"\t") for line in tsv.read_bytes().splitlines()]
        contestants: dict[str, Callable[[], object]] = {
            "floor": lambda: decode_all(rows, sizes, base64.b64decode),
            "floor, pybase64": lambda: decode_all(rows, sizes, pybase64.b64decode),
            "ours": lambda: [do(task) for task in tasks],
        }
        figures = take_turns(contestants, images, rounds)
        peaks = memory(tasks, arguments.processes)
    floor, ours = figures["floor"]["per_image"], figures["ours"]["per_image"]
    record = new_record("ingest")
    record["versions"] = {name: version(name) for name in ("numpy", "torch", "pybase64")}
    record |= {
        "images": images,
        "rounds": rounds,
        "figures": figures,
        "ratio": statistics.median(f / o for f, o in zip(floor, ours, strict=True)),
        "processes": arguments.processes,
        "peak_bytes": peaks,
    }
    for name, found in figures.items():
        print(f"{name}: {found['cpu_us']:.0f} us CPU, {found['wall_us']:.0f} us an image")
    print(f"ours reaches {record['ratio']:.2f} of the floor; bar 0.5")
    print(f"most memory of a process: {max(peaks) / 2**20:.0f} MiB")
    if not arguments.smoke:
        write_record(record)
        render()
        cpu = {f"{name} cpu_us": found["cpu_us"] for name, found in figures.items()}
        log_to_mlflow(record, {"ratio": record["ratio"], "peak_bytes": max(peaks), **cpu})


def make_tsv(path: Path, images: int, sizes: RowSizes) -> Path:
    """Rows as published; features look like pooled ReLUs, most of them small."""
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for image in range(images):
            corners = np.sort(rng.random((sizes.num_objects, 2, 2)), axis=1).reshape(-1, 4)
            arrays = {
                "objects_id": rng.integers(0, 1600, sizes.num_objects),
                "objects_conf": rng.random(sizes.num_objects, np.float32),
                "attrs_id": rng.integers(0, 400, sizes.num_objects),
                "attrs_conf": rng.random(sizes.num_objects, np.float32),
                "boxes": (corners * [640, 480, 640, 480]).astype(np.float32),
                "features": 2 * rng.random((sizes.num_objects, sizes.feature_dim), np.float32) ** 4,
            }
            texts = {"img_id": f"COCO_{image}", "img_h": "480", "img_w": "640"}
            texts["num_boxes"] = str(sizes.num_objects)
            encoded = {name: base64.b64encode(a.tobytes()) for name, a in arrays.items()}
            encoded |= {name: text.encode() for name, text in texts.items()}
            file.write(b"\t".join(encoded[name] for name in FIELDS) + b"\n")
    return path


def make_tasks(tsv: Path, uri: str, sizes: RowSizes) -> list[ShardTask]:
    """The shards of all rows, in the order of the file."""
    shape = ImageSizes(sizes.num_objects, sizes.feature_dim, "float16", SHARD, 1600, 400)
    with FeatureFile(tsv, sizes) as file:
        rows = [(tsv, row) for row in file.index()]
    return [
        ShardTask(
            ShardPlace(uri, "train", at // SHARD, shape),
            TsvRows(tuple((row,) for row in rows[at : at + SHARD]), sizes),
            len(rows[at : at + SHARD]),
        )
        for at in range(0, len(rows), SHARD)
    ]


def decode_all(
    rows: list[list[bytes]], sizes: RowSizes, decode: Callable[[bytes], bytes]
) -> list[np.ndarray]:
    """What nobody can do without: base64 to arrays, of rows that are in memory and split."""
    last = []
    for row in rows:
        fields = dict(zip(FIELDS, row, strict=True))
        last = [
            np.frombuffer(decode(fields[name]), dtype).reshape(shape)
            for name, (dtype, shape) in sizes.arrays.items()
        ]
    return last


def take_turns(
    contestants: dict[str, Callable[[], object]], images: int, rounds: int
) -> dict[str, dict]:
    """Microseconds an image, of CPU (medians, and all rounds) and of wall time; one warm-up."""
    cpu: dict[str, list[float]] = {name: [] for name in contestants}
    wall: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            began, spent = time.perf_counter(), time.process_time()
            run()
            if turn:
                cpu[name].append(1e6 * (time.process_time() - spent) / images)
                wall[name].append(1e6 * (time.perf_counter() - began) / images)
    return {
        name: {
            "cpu_us": statistics.median(cpu[name]),
            "wall_us": statistics.median(wall[name]),
            "per_image": cpu[name],
        }
        for name in contestants
    }


def memory(tasks: list[ShardTask], processes: int) -> list[int]:
    """The most that each process ever held, after all shards were written by them."""
    with Pool(processes) as pool:
        for _ in pool.map(do, tasks):
            pass
        found = dict(pool.map(peak, range(8 * processes)))
    return sorted(found.values())


def peak(_: int) -> tuple[int, int]:
    """This process, and the most that it held, in bytes."""
    time.sleep(0.01)  # so that every process takes one
    status = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in status if line.startswith("VmHWM"))
    return os.getpid(), 1024 * int(line.split()[1])


if __name__ == "__main__":
    main()
