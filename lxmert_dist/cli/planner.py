"""The command ``python -m lxmert_dist.cluster.planner``: what a run would take on many GPUs."""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lxmert_dist.cli.command import add_settings, frame, run_command
from lxmert_dist.cluster import hardware
from lxmert_dist.cluster.hardware import GPUS, MFU, Cluster
from lxmert_dist.config import PretrainConfig, load_config
from lxmert_dist.errors import ConfigError

if TYPE_CHECKING:
    from lxmert_dist.cluster.amounts import Amounts
    from lxmert_dist.cluster.planner import Prediction

DESCRIPTION = """\
Predict pairs a second, hours, GPU-hours and object-storage traffic of a pretraining run, and what
would bind. Batch, ZeRO stage, precision, model, lanes and epochs come from the settings.

Formulas count what a step asks of GPUs, links and storage; how quickly those answer is assumed, and
the output says what. benchmarks/SCALING.md compares the formulas with what was measured."""

EXAMPLES = """\
examples:
  python -m lxmert_dist.cluster.planner --gpus 64 --gpu h100 --storage-gbps 10
  python -m lxmert_dist.cluster.planner --gpus 8 --set train.global_batch_size=2048
  python -m lxmert_dist.cluster.planner --gpus 256 --set data.lanes=256 --network-gbps 400
  python -m lxmert_dist.cluster.planner --from-store --set data.store=s3://bucket/lxmert --gpus 8
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_plan, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = frame(DESCRIPTION, EXAMPLES)
    add_settings(parser, "configs/pretrain/lxmert.toml")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="ranks (default 1)")
    parser.add_argument("--gpu", choices=sorted(GPUS), default="h100", help="(default h100)")
    parser.add_argument("--gpus-per-node", type=int, default=8, metavar="N", help="(default 8)")
    parser.add_argument(
        "--storage-gbps",
        type=float,
        default=10.0,
        metavar="GBIT",
        help="Gbit/s that the object storage gives all nodes together (default 10)",
    )
    parser.add_argument(
        "--network-gbps",
        type=float,
        metavar="GBIT",
        help="Gbit/s out of a node, all adapters together (default: of a DGX node, 3200 for h100)",
    )
    parser.add_argument(
        "--mfu",
        type=float,
        metavar="SHARE",
        help=f"of the GPU's peak, what the model reaches (default: {MFU[1]}, with {MFU[0]} and "
        f"{MFU[2]} as its range)",
    )
    parser.add_argument("--price-per-gpu-hour", type=float, metavar="P", help="in any currency")
    parser.add_argument(
        "--from-store",
        action="store_true",
        help="take the amounts of data from the store at data.store, not the published ones",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _plan(arguments: argparse.Namespace) -> None:
    _check(arguments)
    from lxmert_dist.cluster import amounts
    from lxmert_dist.cluster.planner import predict

    config = load_config(PretrainConfig, arguments.config, arguments.set)
    gpu = GPUS[arguments.gpu]
    network = gpu.network_gbps if arguments.network_gbps is None else arguments.network_gbps
    cluster = Cluster(gpu, arguments.gpus, arguments.gpus_per_node, network, arguments.storage_gbps)
    data = amounts.of_store(config) if arguments.from_store else amounts.published()
    least, middle, most = MFU if arguments.mfu is None else (arguments.mfu,) * 3
    found, *edges = predict(config, cluster, data, (middle, least, most))
    if arguments.json:
        print(json.dumps(_tree(found, edges, data, arguments.price_per_gpu_hour), indent=2))  # noqa: T201
        return
    for line in _lines(config, found, edges, data, arguments.price_per_gpu_hour):
        print(line)  # noqa: T201


def _check(arguments: argparse.Namespace) -> None:
    """Before anything is read."""
    for name in ("gpus", "gpus_per_node"):
        if getattr(arguments, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} counts from 1")
    for name in ("storage_gbps", "network_gbps", "price_per_gpu_hour"):
        value = getattr(arguments, name)
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"--{name.replace('_', '-')} {value:g} must be more than 0")
    if arguments.mfu is not None and not 0 < arguments.mfu <= 1:
        raise ConfigError(f"--mfu {arguments.mfu:g} must be a share in (0, 1], e.g. 0.35")


def _tree(
    found: "Prediction", edges: list["Prediction"], data: "Amounts", price: float | None
) -> dict[str, Any]:
    """For machines: seconds, bytes and plain numbers."""
    cluster = found.cluster
    return {
        "gpus": cluster.gpus,
        "gpu": cluster.gpu.name,
        "nodes": cluster.nodes,
        "zero_stage": found.stage,
        "global_batch_size": found.global_batch,
        "micro_batch_size": found.micro_batch,
        "micro_batches": found.micro_batches,
        "data": data.origin,
        "pairs": len(data.index),
        "parameters": found.params,
        "flops_per_step": found.flops,
        "mfu": found.mfu,
        "step_seconds": found.step_seconds,
        "step_seconds_range": sorted(edge.step_seconds for edge in edges),
        "parts_seconds": dict(found.parts),
        "binds": [name for name, _ in found.binds],
        "pairs_per_second": found.pairs_per_second,
        "hours": found.hours,
        "hours_range": sorted(edge.hours for edge in edges),
        "gpu_hours": found.gpu_hours,
        "price": None if price is None else price * found.gpu_hours,
        "memory_bytes": dict(found.memory),
        "collectives": [
            {**asdict(send), "sent_bytes": send.sent_bytes(cluster.gpus)} for send in found.sends
        ],
        "traffic": asdict(found.traffic),
        "notes": list(found.notes),
    }


def _lines(
    config: PretrainConfig,
    found: "Prediction",
    edges: list["Prediction"],
    data: "Amounts",
    price: float | None,
) -> Iterator[str]:
    """For people."""
    cluster, traffic = found.cluster, found.traffic
    share = found.micro_batch * found.micro_batches
    pieces = f" in {found.micro_batches} pieces" if found.micro_batches > 1 else ""
    yield (
        f"run         {cluster.gpus} {cluster.gpu.name} in {cluster.nodes} node(s), ZeRO-"
        f"{found.stage}, {config.train.precision}; {found.global_batch:,} pairs a step, {share} a "
        f"GPU{pieces}"
    )
    yield f"data        {data.origin}: {len(data.index):,} pairs, {traffic.epochs} epochs"
    yield (
        f"step        {_ms(found.step_seconds)} ({_ms(edges[1].step_seconds)} to "
        f"{_ms(edges[0].step_seconds)}), {traffic.steps:,} of them; "
        f"{found.flops / 1e12:.2f} TFLOP each"
    )
    for name, seconds in found.binds:
        yield f"            {_ms(seconds):>9} {WHAT[name]}"
    yield f"speed       {found.pairs_per_second:,.0f} pairs/s"
    cost = "" if price is None else f", {price * found.gpu_hours:,.0f} at {price:g} a GPU-hour"
    yield (
        f"time        {found.hours:.2f} h ({edges[1].hours:.2f} to {edges[0].hours:.2f}), "
        f"{found.gpu_hours:,.1f} GPU-hours{cost}"
    )
    parts = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in found.memory.items())
    room = f"{cluster.gpu.memory_bytes / 1e9:.0f}"
    yield f"memory      {found.held_bytes / 1e9:.1f} of {room} GB: {parts}"
    for send in found.sends:
        yield (
            f"sends       {send.sent_bytes(cluster.gpus) / 1e6:,.0f} MB a step out of each GPU by "
            f"{send.kind} of {send.num_bytes / 1e6:,.0f} MB"
        )
    yield from _traffic_lines(found, cached=bool(config.data.cache))
    for note in found.notes:
        yield f"note        {note}"
    yield (
        f"assumed     {found.mfu:.0%} of the peak in products; {hardware.LINK_SHARE:.0%} of links "
        f"and {hardware.MEMORY_SHARE:.0%} of memory; {1e6 * hardware.MESSAGE_SECONDS:g} us a "
        f"message, {1e6 * hardware.OPERATION_SECONDS:g} us an operation of the host"
    )


def _traffic_lines(found: "Prediction", *, cached: bool) -> Iterator[str]:
    traffic = found.traffic
    other = traffic.read_bytes(cached=not cached) / 1e9
    yield (
        f"reads       {traffic.read_bytes(cached=cached) / 1e9:,.0f} GB from object storage "
        f"({other:,.0f} GB {'without' if cached else 'with'} data.cache), of which "
        f"{traffic.opening_bytes / 1e9:,.1f} GB at the start; at most "
        f"{traffic.feature_gets + traffic.opening_gets:,} GETs; {traffic.read_ratio:.3f} times the "
        "store an epoch"
    )
    yield (
        f"writes      {traffic.checkpoints:,} checkpoints of {traffic.checkpoint_bytes / 1e9:.2f} "
        f"GB: {traffic.checkpoints * traffic.checkpoint_bytes / 1e9:,.0f} GB"
    )


WHAT = {
    "compute": "products and what stands between them",
    "update": "clipping and the optimiser's update",
    "host": "the host, starting operations (beside compute and update)",
    "communication": "waiting for other ranks",
    "storage": "reading features (behind the training)",
    "collation": "gathering and masking a rank's pairs (behind the training)",
    "checkpoint": "writing checkpoints (behind the training)",
}
"""The parts of a step."""


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms"


if __name__ == "__main__":
    raise SystemExit(main())
