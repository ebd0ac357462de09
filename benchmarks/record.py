"""One JSON a benchmark, and RESULTS.md made of all of them."""

import datetime
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def new_record(name: str, fingerprint: str = "", *, device: str = "cpu") -> dict:
    """Date, commit, configuration (where there is one), machine and versions."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "name": name,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "fingerprint": fingerprint,
        "machine": (
            f"{platform.machine()}, {os.cpu_count()} cores, {_accelerator(device)}, "
            f"OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'not set')}"
        ),
        "versions": {name: _version(name) for name in ("torch", "transformers", "deepspeed")},
    }


def _accelerator(device: str) -> str:
    if device == "cpu":
        return "no GPU"
    import torch

    return torch.cuda.get_device_name()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def log_to_mlflow(record: dict, figures: dict[str, float]) -> None:
    """Put a record beside the runs, in the experiment ``benchmarks``; skipped without mlflow."""
    try:
        import mlflow
    except ImportError:
        print("mlflow is not installed; the record is in benchmarks/results only")
        return
    database = HERE.parent / "runs" / "mlflow.db"
    database.parent.mkdir(exist_ok=True)
    mlflow.set_tracking_uri(f"sqlite:///{database}")
    if mlflow.get_experiment_by_name("benchmarks") is None:
        artifacts = (database.parent / "benchmark_artifacts").resolve()
        mlflow.create_experiment("benchmarks", artifact_location=artifacts.as_uri())
    mlflow.set_experiment("benchmarks")
    with mlflow.start_run(run_name=record["name"]):
        mlflow.set_tags({key: str(record[key]) for key in ("commit", "machine", "versions")})
        mlflow.log_metrics(figures)
        mlflow.log_dict(record, f"{record['name']}.json")


def write_record(record: dict) -> None:
    """Keep a record."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{record['name']}.json").write_text(json.dumps(record, indent=1) + "\n")


def render() -> None:
    """Write RESULTS.md."""
    lines = [
        "# Results",
        "",
        "Made by `benchmarks/record.py` from `benchmarks/results/*.json`.",
        "",
    ]
    for file in sorted(RESULTS.glob("*.json")):
        record = json.loads(file.read_text())
        section = (
            model if record["name"].startswith("model_") else SECTIONS.get(record["name"], notes)
        )
        lines += section(record)
    (HERE / "RESULTS.md").write_text("\n".join(lines).rstrip() + "\n")


def easy_vqa(record: dict) -> Iterable[str]:
    """The section of ``bench_easy_vqa.py``."""
    yield "## easy-VQA, with and without pretraining"
    yield ""
    yield "Command: `uv run benchmarks/bench_easy_vqa.py`. Accuracy in percent over all 9,673 test"
    yield "questions; from scratch has the same fine-tuning budget."
    yield ""
    yield heading(record)
    yield ""
    yield "| seed | pretrained | from scratch | held-out matching | pairs/s | waiting for data |"
    yield "|---|---|---|---|---|---|"
    for run in record["runs"]:
        yield (
            f"| {run['seed']} | {run['accuracy_pretrained']:.2f} | {run['accuracy_scratch']:.2f} "
            f"| {100 * run['matching_accuracy']:.1f} | {run['pairs_per_second']:.0f} "
            f"| {100 * run['data_wait_share']:.2f} % |"
        )
    with_, without = (
        [run[key] for run in record["runs"]] for key in ("accuracy_pretrained", "accuracy_scratch")
    )
    yield f"| mean | **{statistics.mean(with_):.2f}** | {statistics.mean(without):.2f} | | | |"
    yield ""
    references = ", ".join(f"{k} {v:.2f}" for k, v in record["references"].items())
    yield f"Beside them: {references}. What held-out captions allow the matching task"
    yield f"(a swapped caption can be true by chance): {100 * record['matching_ceiling']:.1f}."
    yield ""
    yield "Held-out losses, first and last, with fixed masks (seed of the first row):"
    yield ""
    yield "| loss | first | last |"
    yield "|---|---|---|"
    for name, (first, last) in record["runs"][0]["held_out"].items():
        yield f"| {name} | {first:.4f} | {last:.4f} |"
    yield ""


def model(record: dict) -> Iterable[str]:
    """The section of ``bench_model.py``."""
    yield f"## A pretraining step against transformers, on {record['settings']['device']}"
    yield ""
    yield f"Command: `uv run {record['command']}`. Whole steps (forward, backward, clipping,"
    yield "AdamW) of the published 9/5/5 model on the same pairs, alternating; *k* pairs share an"
    yield "image, of which the peer sees a copy each. The ratio is the median of the ratios of the"
    yield "rounds. *State* is weights, masters and moments, *step* what tensors take beside it at"
    yield "most, each measured in a process of its own; in brackets ours over the peer's, alone and"
    yield "with the state. Losses are compared without dropout, before the first update."
    yield "*Utilisation* is the share of what one large matrix product reaches on the machine."
    yield ""
    yield heading(record)
    yield ""
    yield (
        "| precision | k | | s a step | pairs/s | ratio | CPU-s | ratio by CPU | GFLOP "
        "| utilisation | state GiB | step GiB | process GiB | losses differ by |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    for row in record["rows"]:
        yield from _model_lines(row)
    yield ""


def _model_lines(row: dict) -> Iterable[str]:
    peer, ours = row["peer"], row["ours"]
    alone = ours["step_bytes"] / peer["step_bytes"]
    both = (ours["step_bytes"] + ours["state_bytes"]) / (peer["step_bytes"] + peer["state_bytes"])
    extra = {
        "transformers": ("", "", "", ""),
        "ours": (
            f"**{row['ratio']:.2f}**",
            f"{row['cpu_ratio']:.2f}",
            f" (**{alone:.2f}**, {both:.2f})",
            f"{row['loss_difference']:.1e}",
        ),
    }
    for name, part in (("transformers", peer), ("ours", ours)):
        ratio, cpu_ratio, memory, difference = extra[name]
        cells = [
            row["precision"],
            row["pairs_per_image"],
            name,
            f"{part['seconds']:.3f}",
            f"{part['pairs_per_second']:.2f}",
            ratio,
            f"{part['cpu_seconds']:.2f}",
            cpu_ratio,
            f"{part['flops'] / 1e9:.0f}",
            f"{part['utilisation']:.0%}",
            f"{part['state_bytes'] / 2**30:.2f}",
            f"{part['step_bytes'] / 2**30:.2f}{memory}",
            f"{part['resident_bytes'] / 2**30:.2f}",
            difference,
        ]
        yield "| " + " | ".join(str(cell) for cell in cells) + " |"


def grouping(record: dict) -> Iterable[str]:
    """The section of ``bench_grouping.py``."""
    yield "## Image grouping at equal pairs visited, on easy-VQA"
    yield ""
    yield "Command: `uv run benchmarks/bench_grouping.py`: the quickstart with"
    yield "`data.pairs_per_image = k`. Held-out losses at the end, with fixed masks, and accuracies"
    yield "in percent. The total is the plain sum, as the quickstart weighs them."
    yield ""
    yield heading(record)
    yield ""
    names = list(record["runs"][0]["held_out"])
    yield "| k | seed | " + " | ".join(names) + " | total | image QA | matching of captions |"
    yield "|---|---|" + "---|" * (len(names) + 3)
    groups = sorted({run["pairs_per_image"] for run in record["runs"]})
    for group in groups:
        runs = [run for run in record["runs"] if run["pairs_per_image"] == group]
        for run in runs:
            yield _grouping_line(group, str(run["seed"]), [run])
        yield _grouping_line(group, "**mean**", runs)
    yield ""


def _grouping_line(group: int, label: str, runs: list[dict]) -> str:
    """The means over some runs."""

    def mean(values: Iterable[float]) -> float:
        return statistics.mean(values)

    losses = [mean(run["held_out"][n] for run in runs) for n in runs[0]["held_out"]]
    accuracies = [100 * mean(run["accuracy"][n] for run in runs) for n in runs[0]["accuracy"]]
    cells = [str(group), label, *(f"{loss:.4f}" for loss in (*losses, sum(losses)))]
    cells += [f"{accuracy:.2f}" for accuracy in accuracies]
    return "| " + " | ".join(cells) + " |"


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
    yield ""


def notes(record: dict) -> Iterable[str]:
    """What was tried, the losing tries included; kept by hand."""
    yield f"## {record['title']}"
    yield ""
    yield record["about"]
    yield ""
    yield "| " + " | ".join(record["columns"]) + " |"
    yield "|" + "---|" * len(record["columns"])
    for row in record["rows"]:
        yield "| " + " | ".join(row) + " |"
    yield ""


def heading(record: dict) -> str:
    """Where a record is from."""
    versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    configuration = f"configuration {record['fingerprint']}, " if record["fingerprint"] else ""
    return (
        f"{record['date']}, commit {record['commit']}, {configuration}{record['machine']}, "
        f"{versions}."
    )


SECTIONS = {
    "easy_vqa": easy_vqa,
    "grouping": grouping,
    "ingest": ingest,
    "plan": plan,
    "stream_local": stream_local,
    "stream_memory": stream_memory,
    "stream_s3": stream_s3,
    "stream_wait": stream_wait,
}
"""What tells of each record; ``notes`` of the others."""


if __name__ == "__main__":
    render()
