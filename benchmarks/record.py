"""One JSON a benchmark, and RESULTS.md made of all of them."""

import datetime
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def new_record(name: str, fingerprint: str) -> dict:
    """Date, commit, configuration, machine and versions."""
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
            f"{platform.machine()}, {os.cpu_count()} cores, no GPU, "
            f"OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'not set')}"
        ),
        "versions": {name: version(name) for name in ("torch", "deepspeed", "zarr")},
    }


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
        match record["name"]:
            case "easy_vqa":
                lines += easy_vqa(record)
            case "easy_vqa_recipe":
                lines += recipe(record)
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


def recipe(record: dict) -> Iterable[str]:
    """What was tried on the way to the quickstart's settings, kept by hand."""
    yield "## How the quickstart's settings were found"
    yield ""
    yield record["about"]
    yield ""
    yield "| change | seen |"
    yield "|---|---|"
    for change, seen in record["rows"]:
        yield f"| {change} | {seen} |"
    yield ""


def heading(record: dict) -> str:
    """Where a record is from."""
    versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    return (
        f"{record['date']}, commit {record['commit']}, configuration {record['fingerprint']}, "
        f"{record['machine']}, {versions}."
    )


if __name__ == "__main__":
    render()
