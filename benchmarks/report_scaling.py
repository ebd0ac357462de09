"""SCALING.md: what the planner says, beside what was measured of it.

``results/planner.json`` keeps what the planner said (``--predict`` asks it anew);
``results/collectives.json`` is of ``bench_collectives.py``.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict

from lxmert_dist.cluster import hardware
from lxmert_dist.cluster.amounts import published
from lxmert_dist.cluster.hardware import GPUS, MFU, Cluster
from lxmert_dist.cluster.planner import predict
from lxmert_dist.config import PretrainConfig, load_config
from record import HERE, RESULTS, heading, new_record, write_record

GPU_COUNTS = (1, 8, 64, 256)
STAGES = (0, 1, 2)
STORAGE_GBPS = 10.0
RECIPES = (
    ("the recipe", "256 pairs a step, whatever the number of GPUs", None),
    ("256 pairs a GPU", "another recipe, of which no training was tried", 256),
)


def main() -> None:
    """Render, and ask the planner before if told to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--predict", action="store_true", help="ask the planner anew")
    if parser.parse_args().predict:
        write_record(predictions())
    (HERE / "SCALING.md").write_text(rendered())


def rendered() -> str:
    """SCALING.md, of the committed records."""
    planned = json.loads((RESULTS / "planner.json").read_text())
    file = RESULTS / "collectives.json"
    measured = json.loads(file.read_text()) if file.exists() else None
    return "\n".join([*introduction(planned), *tables(planned), *evidence(measured)]) + "\n"


def predictions() -> dict:
    """The planner's word for every size of cluster, stage and recipe."""
    record = new_record("planner") | {"rows": []}
    amounts = published()
    for name, _, pairs in RECIPES:
        for gpus in GPU_COUNTS:
            traffic = None
            for stage in STAGES:
                chosen = [f"train.zero_stage={stage}", f"data.lanes={max(64, gpus)}"]
                if pairs:
                    chosen.append(f"train.global_batch_size={pairs * gpus}")
                config = load_config(
                    PretrainConfig, HERE.parent / "configs/pretrain/lxmert.toml", chosen
                )
                gpu = GPUS["h100"]
                cluster = Cluster(gpu, gpus, 8, gpu.network_gbps, STORAGE_GBPS)
                middle, least, most = predict(
                    config, cluster, amounts, (MFU[1], MFU[0], MFU[2]), traffic
                )
                traffic = middle.traffic
                record["rows"].append(
                    {
                        "recipe": name,
                        "gpus": gpus,
                        "stage": stage,
                        "pairs_per_second": middle.pairs_per_second,
                        "hours": [most.hours, middle.hours, least.hours],
                        "gpu_hours": middle.gpu_hours,
                        "parts": dict(middle.parts),
                        "memory_bytes": middle.held_bytes,
                        "traffic": asdict(middle.traffic),
                        "read_bytes": middle.traffic.read_bytes(cached=False),
                        "cached_read_bytes": middle.traffic.read_bytes(cached=True),
                    }
                )
                print(f"{name}, {gpus} GPUs, ZeRO-{stage}: {middle.hours:.2f} h")
    return record


def introduction(planned: dict) -> Iterator[str]:
    """The formula and what it assumes."""
    yield "# Scale on paper"
    yield ""
    yield "Made by `benchmarks/report_scaling.py` from `results/planner.json` and"
    yield "`results/collectives.json`; `python -m lxmert_dist.cluster.planner` answers for any"
    yield "other cluster or configuration. No step of ours was timed on a GPU yet: everything about"
    yield "GPUs here is predicted."
    yield ""
    yield "    step = max(compute + update, host) + exposed communication"
    yield ""
    yield "and at least what storage, collation and checkpoints need behind it. *Compute* is the"
    yield "FLOPs of the real lengths over a share of the peak; *update* the bytes of clipping and"
    yield "optimiser over the memory's rate; *host* the operations that eager PyTorch starts;"
    yield "*communication* what a ring carries over the slowest link, and its messages."
    yield ""
    yield "Known: FLOPs equal torch's count of the real task exactly, and operations are counted of"
    yield "it (`tests/cluster/test_work.py`); reads are those of the real plan of an epoch, carried"
    yield "out without features, on made-up data of the published amounts. Assumed:"
    yield ""
    yield f"- {', '.join(f'{share:.0%}' for share in MFU)} of the H100's 989 TFLOP/s in bf16 (the"
    yield "  middle one in the tables, all three as the range of hours);"
    yield f"- {hardware.LINK_SHARE:.0%} of NVLink's 450 GB/s, and of 3,200 Gbit/s out of a node of"
    yield f"  eight; {1e6 * hardware.MESSAGE_SECONDS:g} us a message of a ring;"
    yield f"- {hardware.MEMORY_SHARE:.0%} of the memory's 3.35 TB/s;"
    yield f"- {1e6 * hardware.OPERATION_SECONDS:g} us of the host for each operation;"
    yield f"- {STORAGE_GBPS:g} Gbit/s from object storage to all nodes together; no `data.cache`."
    yield ""
    yield heading(planned)
    yield ""


def tables(planned: dict) -> Iterator[str]:
    """One for each recipe."""
    for name, about, _ in RECIPES:
        yield f"## {name[0].upper()}{name[1:]}: {about}"
        yield ""
        yield (
            "| H100s | ZeRO | pairs/s | hours (range) | GPU-hours | GB a GPU "
            "| read, TB (with cache) | GETs | binds first, then (ms of a step) |"
        )
        yield "|---|---|---|---|---|---|---|---|---|"
        for row in planned["rows"]:
            if row["recipe"] == name:
                yield line_of(row)
        yield ""


def line_of(row: dict) -> str:
    """A cluster at a stage."""
    least, middle, most = row["hours"]
    first, second = sorted(row["parts"].items(), key=lambda part: -part[1])[:2]
    gets = row["traffic"]["feature_gets"] + row["traffic"]["opening_gets"]
    return (
        f"| {row['gpus']} | {row['stage']} | {row['pairs_per_second']:,.0f} "
        f"| **{middle:.2f}** ({least:.2f} to {most:.2f}) | {row['gpu_hours']:,.0f} "
        f"| {row['memory_bytes'] / 1e9:.1f} "
        f"| {row['read_bytes'] / 1e12:.2f} ({row['cached_read_bytes'] / 1e12:.2f}) | {gets:,} "
        f"| {first[0]} {1e3 * first[1]:.2f}, {second[0]} {1e3 * second[1]:.2f} |"
    )


def evidence(measured: dict | None) -> Iterator[str]:
    """Prediction against measurement, of two ranks on a CPU."""
    yield "## Prediction against measurement"
    yield ""
    if measured is None:
        yield "Not measured yet: `uv run benchmarks/bench_collectives.py`."
        return
    yield "Command: `uv run benchmarks/bench_collectives.py`. Two gloo ranks of one core each, a"
    yield f"model of {measured['params'] / 1e6:.0f} M parameters, {measured['settings']['pairs']}"
    yield "pairs a rank. Predicted are the collectives that the planner counts for the stage, with"
    yield "the bytes and the seconds that gloo was measured to take for each, and for the seconds a"
    yield "plain loop in both processes at once, which sends nothing. Bytes are what crosses the"
    yield "wire, headers included. *Alone* is one rank under DeepSpeed, which sends nothing either;"
    yield "in fp32 it has no stage. Predicted seconds are too few: they leave out what DeepSpeed"
    yield "copies, which *alone* shows in bf16, and that gloo copies and sums on the cores that"
    yield "compute."
    yield ""
    yield heading(measured)
    yield ""
    yield "| precision | ZeRO | MB sent by a rank | predicted | s a step | predicted | alone |"
    yield "|---|---|---|---|---|---|---|"
    for row, alone in zip(measured["steps"], measured["alone"], strict=True):
        if row["stage"] is not None:
            yield (
                f"| {row['precision']} | {row['stage']} "
                f"| {row['sent_bytes'] / 1e6:.1f} | {row['predicted_bytes'] / 1e6:.1f} "
                f"| {row['seconds']:.3f} | {row['predicted_seconds']:.3f} "
                f"| {alone['seconds']:.3f} |"
            )
    yield ""
    yield "| collective | MiB | MB/s | of the tensor, sent by a rank |"
    yield "|---|---|---|---|"
    for rate in measured["rates"]:
        yield (
            f"| {rate['kind']} | {rate['num_bytes'] / 2**20:.0f} "
            f"| {rate['num_bytes'] / rate['seconds'] / 1e6:,.0f} "
            f"| {rate['sent_bytes'] / 2 / rate['num_bytes']:.3f} |"
        )


if __name__ == "__main__":
    main()
