"""The memory of one rank's data path on a store of LXMERT's size, epoch after epoch.

``uv run benchmarks/stream_memory.py --scratch DIRECTORY`` makes a synthetic store of 180,000 images
and 9.18 million pairs whose feature objects have full size, but are links to a single one (27 GB
are read, 10 MB kept), lets the loader run in a process of its own, writes
``benchmarks/results/stream_memory.json``, and renders ``RESULTS.md``.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from lxmert_dist.store.catalogue import open_catalogue
from record import new_record, write_record
from report import render

MIB = 1 << 20
FEATURES = (36, 2048)


def main() -> None:
    """Run each setting in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=180_000)
    parser.add_argument("--scratch", type=Path, help="where the store is written")
    parser.add_argument("--store", type=Path, help="such a store, made by launch/prepare.py")
    parser.add_argument("--epochs", type=int, default=2, help="of rank 0 of 8")
    parser.add_argument("--steps", type=int, default=1500, help="before and after an epoch's end")
    parser.add_argument("--run", metavar="SETTINGS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run(json.loads(arguments.run))
        return
    record = new_record("stream_memory")
    record["command"] = "benchmarks/stream_memory.py" + " --store STORE" * bool(arguments.store)
    record["runs"] = []
    with tempfile.TemporaryDirectory(dir=arguments.scratch, prefix="bench_memory_") as scratch:
        store = arguments.store or Path(scratch) / "store"
        if not arguments.store:
            make_narrow(Path(scratch) / "narrow", arguments.images)
            widen(Path(scratch) / "narrow", store)
        entry = open_catalogue(str(store)).manifest.splits["train"]
        record["images"], record["pairs"] = entry.num_images, entry.num_pairs
        record["linked"] = not arguments.store
        shared = {"store": str(store), "steps": arguments.steps, "epochs": arguments.epochs}
        for setting in (
            {"name": "rank 0 of 8, 64 lanes, whole epochs", "lanes": 64, "world": 8, "whole": True},
            {"name": "a rank alone, 8 lanes, about an epoch's end", "lanes": 8, "world": 1},
        ):
            done = subprocess.run(
                [sys.executable, __file__, "--run", json.dumps({**shared, **setting})],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            lines = [json.loads(line) for line in done.stdout.splitlines()]
            record["runs"].append({**setting, "lines": lines})
            for line in lines:
                print(setting["name"], line)
            write_record(record)
            render()


def make_narrow(path: Path, images: int) -> None:
    """Everything of a store of made-up images, with a single feature an object."""
    from lxmert_dist.ingest import SyntheticImages, prepare_synthetic

    prepare_synthetic(str(path), SyntheticImages(9595, feature_dim=1), num_images=images)


def widen(narrow: Path, store: Path) -> None:
    """The same store with features of full size."""
    from lxmert_dist.store import open_store
    from lxmert_dist.store.chunks import encode_chunk
    from lxmert_dist.store.layout import POINTER_KEY, SCHEMA_VERSION, manifest_key
    from lxmert_dist.store.manifest import ChunkEntry, canonical_json, encode

    subprocess.run(["cp", "-r", "--reflink=auto", str(narrow), str(store)], check=True)
    manifest = open_store(str(narrow)).manifest
    size = (manifest.images_per_shard, *FEATURES)
    data = encode_chunk(np.random.default_rng(0).random(size, np.float32).astype(np.float16))
    one = store / "one"
    one.write_bytes(data)
    entry = ChunkEntry.of("one", data)
    splits = {}
    for name, split in manifest.splits.items():
        shards = []
        for shard in split.shards:
            place = store / shard.chunk.key
            place.unlink()
            place.hardlink_to(one)
            chunk = entry.model_copy(update={"key": shard.chunk.key})
            shards.append(shard.model_copy(update={"chunk": chunk}))
        splits[name] = split.model_copy(update={"shards": tuple(shards)})
    wide = manifest.model_copy(update={"splits": splits, "feature_dim": FEATURES[1]})
    written, digest = encode(wide)
    (store / manifest_key(digest)).write_bytes(written)
    pointer = {"schema_version": SCHEMA_VERSION, "digest": digest}
    (store / POINTER_KEY).write_bytes(canonical_json(pointer))


def run(settings: dict) -> None:
    """Deliver batches as training would, and print the memory at every stage."""
    from lxmert_dist.stream.loader import Loader, LoaderSettings, Position, Rank, TrainingSteps
    from lxmert_dist.stream.plan import PlanSettings
    from stream_contestants import SEED, collation, opened

    say("imported", 0.0)
    store, split, index = opened(settings["store"])
    plan = PlanSettings(settings["lanes"], 8, 256)
    share = 256 // settings["world"]
    reading = LoaderSettings(share)
    steps_per_epoch = plan.steps_per_epoch(len(index))
    whole = settings.get("whole", False)
    first = 0 if whole else steps_per_epoch - settings["steps"]
    last = settings["epochs"] * steps_per_epoch if whole else first + 2 * settings["steps"]
    steps = TrainingSteps(
        split,
        index,
        plan,
        reading,
        collation("pretraining", store, split, index),
        SEED,
        settings["epochs"],
        Rank(0, settings["world"]),
        Position(0, first),
    )
    say("opened", 0.0)
    began, epoch, pairs = time.perf_counter(), 0, 0
    with Loader(split, steps, reading) as loader:
        for number, step in enumerate(loader, start=first):
            if step.epoch != epoch:
                say(f"epoch {epoch}", pairs / (time.perf_counter() - began))
                epoch = step.epoch
            pairs += sum(len(micro.pair_ids) for micro in step.micro_batches)
            if number + 1 == last:
                break
        say(f"epoch {epoch}", pairs / (time.perf_counter() - began))


def say(stage: str, pairs_per_second: float) -> None:
    """Resident memory now and at its peak, of which private and of mapped files; MiB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    fields = {"rss": "VmRSS", "peak": "VmHWM", "private": "RssAnon", "files": "RssFile"}
    sizes = {name: int(status[field].split()[0]) * 1024 / MIB for name, field in fields.items()}
    print(json.dumps({"stage": stage, **sizes, "pairs_per_second": pairs_per_second}), flush=True)


if __name__ == "__main__":
    main()
