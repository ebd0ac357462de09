"""RESULTS.md, made of all records: ``python benchmarks/report.py``."""

import json
from collections.abc import Iterable

import report_ablations
import report_data as data
import report_detector
import report_extract
import report_training as training
from record import HERE, RESULTS

SECTIONS = {
    "ablations": report_ablations.ablations,
    "answering_cpu": training.model,
    "answering_cuda": training.model,
    "detector": report_detector.detector,
    "easy_vqa": training.easy_vqa,
    "extract": report_extract.extract,
    "grouping": training.grouping,
    "ingest": data.ingest,
    "loop": training.training_loop,
    "model_cpu": training.model,
    "model_cuda": training.model,
    "nlvr1": report_ablations.nlvr1,
    "plan": data.plan,
    "stream_local": data.stream_local,
    "stream_memory": data.stream_memory,
    "stream_s3": data.stream_s3,
    "stream_wait": data.stream_wait,
}
"""What tells of each record; ``notes`` of the others."""

ELSEWHERE = ("collectives", "planner")
"""Records that SCALING.md tells of."""


def render() -> None:
    """Write RESULTS.md."""
    lines = [
        "# Results",
        "",
        "Made by `benchmarks/report.py` from `benchmarks/results/*.json`.",
        "",
    ]
    for file in sorted(RESULTS.glob("*.json")):
        record = json.loads(file.read_text())
        if record["name"] in ELSEWHERE:
            continue
        lines += SECTIONS.get(record["name"], notes)(record)
    (HERE / "RESULTS.md").write_text("\n".join(lines).rstrip() + "\n")


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


if __name__ == "__main__":
    render()
