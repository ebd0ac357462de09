"""The section of RESULTS.md about extraction."""

from collections.abc import Iterable

from record import heading


def extract(record: dict) -> Iterable[str]:
    """The section of ``bench_extract.py``."""
    rows = record["detectors"]
    ours = rows["ours"]["cpu_s"]
    few, many = record["counts"]
    yield "## Extraction of features from photographs"
    yield ""
    yield "Command: `uv run benchmarks/bench_extract.py`. ResNet-50 at the published sizes (600 x"
    yield "1000 pixels, 300 proposals, 1,600 classes), random weights, one thread, one image at a"
    yield f"time, {record['images']} of 640 x 427; the median of {record['rounds']} rounds that"
    yield "take turns. Torchvision's have no attributes; *the same layers* are its classes around a"
    yield "ResNet-50 whose last stage, dilated, sees each region, as in ours."
    yield ""
    yield f"{heading(record)} Load average {record['load']:.1f}. {record['remarks']}".rstrip()
    yield ""
    yield "| | CPU-s an image | images/s | CPU of ours over it |"
    yield "|---|---|---|---|"
    for name, row in rows.items():
        over = ours / row["cpu_s"]
        yield f"| {name} | {row['cpu_s']:.2f} | {1 / row['wall_s']:.3f} | {over:.2f} |"
    yield ""
    yield "`launch/extract.py` with a small detector (96 x 144 pixels, 30 proposals): what an"
    yield f"image more costs, from {few} and {many} images of 320 x 213; and the most that a"
    yield "process held."
    yield ""
    yield f"| workers | CPU-s an image | images/s | MiB, {few} images | MiB, {many} images |"
    yield "|---|---|---|---|---|"
    for number, row in record["workers"].items():
        peaks = " | ".join(f"{peak / 2**20:.0f}" for peak in row["peak_bytes"])
        yield f"| {number} | {row['cpu_s']:.4f} | {1 / row['wall_s']:.1f} | {peaks} |"
    yield ""
