"""The sections of RESULTS.md about the data path."""

import statistics
from collections.abc import Iterable

from record import heading


def plan(record: dict) -> Iterable[str]:
    """The section of ``bench_plan.py``."""
    rows, reads = record["rows"], record["reads"]
    yield "## Planning an epoch, and what its plan reads (P13, P7)"
    yield ""
    index = rows["all lanes"]["index_bytes"] / 1e6
    yield f"Command: `uv run benchmarks/bench_plan.py`. {record['images']:,} images with sentences"
    yield "as in the paper's table 1, 64 lanes, batch 256, a window of 8 shards. CPU seconds are"
    yield "the median of three epochs; *resume* is from a position in the middle of an epoch to the"
    yield "shards to read and the first step's pairs: the lanes of the rank are planned anew."
    yield f"*Memory* is the peak while planning, beside the index of the pairs ({index:.0f} MB)."
    yield ""
    yield heading(record)
    yield ""
    yield "| who plans | pairs | CPU s (bar 2) | worst | resume CPU s (bar 0.1) | memory MB |"
    yield "|---|---|---|---|---|---|"
    for name, row in rows.items():
        yield (
            f"| {name} | {row['pairs']:,} | {row['seconds']:.3f} | {row['worst_seconds']:.3f} "
            f"| {row['resume_seconds']:.3f} | {row['peak_bytes'] / 1e6:.0f} |"
        )
    yield ""
    yield "| ranks | bytes read / stored (bar 1.03) | one read a pair | imbalance | window MB |"
    yield "|---|---|---|---|---|"
    for row in reads:
        yield (
            f"| {row['world_size']} | **{row['read_ratio']:.4f}** | {row['one_read_a_pair']:.1f} "
            f"| {row['imbalance']:.3f} | {row['window_bytes'] / 1e6:,.0f} |"
        )
    yield ""
    yield (
        f"{reads[0]['left_out']:,} pairs are left to other epochs; a batch has "
        f"{reads[0]['repeats']:.3f} repeats of an image, on average. Windows are of one rank."
    )
    yield ""


def stream_local(record: dict) -> Iterable[str]:
    """The section of ``bench_stream.py --parts local``."""
    yield "## Batches of pairs from the local store"
    yield ""
    yield f"Command: `uv run --group bench {record['command']}`."
    yield f"{record['images']} synthetic images of {record['image_bytes'] / 1e3:.0f} KB and"
    yield f"{record['pairs']} sentences, in the page cache; batches of {record['batch']} pairs,"
    yield "their features stacked, every pair once an epoch. All deliver the same pairs, checked"
    yield "byte by byte before anything is timed. *Ours over it* is the median of the ratios of the"
    yield "rounds, epochs in turn. *k* = 4: pairs of one image share its features in the batch."
    yield "Peers' samples are whole pairs (features repeated), shuffled by MosaicML's py1e, or by"
    yield f"webdataset through a buffer of {record['window']} samples; or images, whose pairs go"
    yield "through a buffer of all pairs of these images, which is also our plan's window here."
    yield "Uncompressed, in 64 MB files."
    yield ""
    yield heading(record)
    yield ""
    yield "| | pairs a CPU-s | pairs/s | CPU-s/GB delivered | ours over it by CPU | by time |"
    yield "|---|---|---|---|---|---|"
    for row in record["rows"]:
        yield (
            f"| {row['name']} | {row['pairs_per_cpu_second']:,.0f} "
            f"| {row['pairs_per_second']:,.0f} | {row['cpu_seconds_per_gb']:.3f} "
            f"| **{row['cpu_ratio']:.2f}** | {row['ratio']:.2f} |"
        )
    yield ""


def stream_s3(record: dict) -> Iterable[str]:
    """The section of ``bench_stream.py --parts s3``."""
    yield "## Features from an S3 server, each read once"
    yield ""
    yield f"Command: `uv run --group bench {record['command']}`."
    yield f"{record['images']} images from SeaweedFS on the same machine; CPU time of the client"
    yield "and its workers alone. Ours is the loader (GET, checksum, gather, a pair an image,"
    yield "four epochs a round); zarr"
    yield "reads single images in a random order from a copy with a chunk an image in objects of"
    yield "64, or our store's chunks in order; MosaicML downloads into an empty directory,"
    yield "webdataset reads `curl`'s output."
    yield ""
    yield heading(record)
    yield ""
    yield "| | CPU-s/GB | of zarr's | MB/s |"
    yield "|---|---|---|---|"
    worst = next(row for row in record["rows"] if row["name"].endswith("image by image"))
    for row in record["rows"]:
        share = row["cpu_seconds_per_gb"] / worst["cpu_seconds_per_gb"]
        speed = row["pairs_per_second"] * record["image_bytes"] / 1e6
        yield f"| {row['name']} | {row['cpu_seconds_per_gb']:.2f} | {share:.3f} | {speed:.0f} |"
    yield ""


def stream_wait(record: dict) -> Iterable[str]:
    """The section of ``stream_wait.py``."""
    training = record["training"]
    yield "## How long training waits for data from an S3 server"
    yield ""
    yield f"Command: `uv run {record['command']}`. SeaweedFS on the same two cores. *Paced*: the"
    yield "loader with the pretraining tasks' collation, batches of 256 pairs of full-size"
    yield "features, in front of a loop whose steps sleep as long as they would last at 10,000"
    yield f"pairs a second; median of {len(record['paced']) // 4} epochs each. {record['note']}"
    yield ""
    yield heading(record)
    yield ""
    yield "| | s a step | CPU-s a step | waiting for data | load average of the machine |"
    yield "|---|---|---|---|---|"
    yield (
        f"| {record['steps']} steps of the quickstart's training "
        f"| {training['seconds_per_step']:.4f} | "
        f"| **{100 * training['data_wait_share']:.2f} %** | |"
    )
    for kind in dict.fromkeys((row["backend"], row["pairs_per_image"]) for row in record["paced"]):
        rows = [r for r in record["paced"] if (r["backend"], r["pairs_per_image"]) == kind]
        shares = [100 * row["data_wait_share"] for row in rows]
        cpu = statistics.median(row["cpu_seconds_per_step"] for row in rows)
        yield (
            f"| paced, {kind[0]}, k = {kind[1]} | {rows[0]['step_seconds']:.4f} | {cpu:.4f} "
            f"| **{statistics.median(shares):.2f} %**, worst {max(shares):.2f} % "
            f"| {', '.join(str(row.get('load', 'not noted')) for row in rows)} |"
        )
    yield ""


def stream_memory(record: dict) -> Iterable[str]:
    """The section of ``stream_memory.py``."""
    yield "## Memory of a rank's data path at full size"
    yield ""
    yield f"Command: `uv run {record['command']}`. {record['images']:,} images of 36 x 2048"
    yield f"features and {record['pairs']:,} pairs; the pretraining tasks' collation; the"
    yield "published window of 8 shards a lane and global batch of 256. MiB of the whole process at"
    yield "the end of each stage, of which *imported* is Python with torch; *files* are mapped, and"
    yield "shared by the ranks of a node."
    if record["linked"]:
        yield "The feature objects are links to one."
    yield ""
    yield heading(record)
    yield ""
    yield "| | stage | resident | peak | private | files | pairs/s |"
    yield "|---|---|---|---|---|---|---|"
    for run in record["runs"]:
        for line in run["lines"]:
            sizes = " | ".join(f"{line[key]:,.0f}" for key in ("rss", "peak", "private", "files"))
            speed = f"{line['pairs_per_second']:,.0f}" if line["pairs_per_second"] else ""
            yield f"| {run['name']} | {line['stage']} | {sizes} | {speed} |"


def ingest(record: dict) -> Iterable[str]:
    """The section of ``bench_ingest.py``."""
    yield "## Ingest of published features against base64 and NumPy alone"
    yield ""
    yield "Command: `uv run benchmarks/bench_ingest.py`. One core, images of 36 x 2048 features,"
    yield f"{record['images']} of them; medians of {record['rounds']} rounds that take turns. The"
    yield "floor decodes rows that are in memory; ours reads them, checks every field, rounds to"
    yield "float16, and writes shards with CRC-32C and SHA-256, synced."
    yield ""
    yield heading(record)
    yield ""
    yield "| | CPU us an image | wall us an image | images a CPU second |"
    yield "|---|---|---|---|"
    names = {
        "floor": "floor: `base64.b64decode`",
        "floor, pybase64": "the same by `pybase64`",
        "ours": "ours, everything",
    }
    for name, figures in record["figures"].items():
        cpu, wall = figures["cpu_us"], figures["wall_us"]
        yield f"| {names[name]} | {cpu:.0f} | {wall:.0f} | {1e6 / cpu:,.0f} |"
    yield ""
    most = max(record["peak_bytes"]) / 2**20
    yield f"Ours reaches **{record['ratio']:.2f}** of the floor (bar 0.5). In {record['processes']}"
    yield f"processes, the one with most memory held {most:.0f} MiB, libraries included."
