"""The section of RESULTS.md about trained detectors."""

from collections.abc import Iterable

from record import heading


def detector(record: dict) -> Iterable[str]:
    """The section of ``bench_detector.py``."""
    yield "## Detectors trained from random weights"
    yield ""
    yield "Command: `uv run benchmarks/bench_detector.py --nlvr1 DIR`. NLVR v1: trained on"
    yield "*hidden*, scored on all of *dev*; easy-VQA: trained on its training images, scored"
    yield "on the test images whose shape its questions settle. mAP at an IoU of 0.5, in percent"
    yield "(bar for NLVR v1: 90)."
    yield ""
    yield heading(record)
    yield ""
    yield "| | steps | images | images/s | MB | mAP@0.5 | of each class | attributes right |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, row in record["detectors"].items():
        valid = row["valid"]
        classes = ", ".join(
            f"{key.removeprefix('ap50/')} {100 * value:.2f}"
            for key, value in valid.items()
            if key.startswith("ap50/")
        )
        yield (
            f"| {name} | {row['steps']:,} | {row['images']:,} | {row['images_per_second']:.1f} "
            f"| {row['bytes'] / 1e6:.1f} | **{100 * valid['map50']:.2f}** | {classes} "
            f"| {100 * valid['attribute_accuracy']:.2f} % |"
        )
    yield ""
    yield "With the second in the place of the quickstart's detector, easy-VQA's accuracy after"
    yield f"{record['epochs']} epochs of pretraining (shipped: 6) and one of fine-tuning is"
    yield f"**{record['accuracy']:.2f} %** (seed 9595, bar 97)."
    yield ""
    if "remarks" in record:
        yield record["remarks"]
        yield ""
