"""What two ranks send each other, how quickly, and whether the planner foresees a step.

``uv run benchmarks/bench_collectives.py`` starts two gloo ranks in a network of their own (Linux,
root), so that the bytes on its loopback are theirs alone. It measures collectives by size, then
whole steps of a small LXMERT under DeepSpeed at ZeRO 0 to 3 in fp32 and bf16, and a plain loop in
both processes at once, which sends nothing. ``cluster.scaling`` says what a stage sends; what the
plain loop takes, and the measured rate for what is sent, make the predicted step. It writes
``results/collectives.json``, of which ``SCALING.md`` tells (``report_scaling.py``).
"""

import argparse
import fcntl
import json
import os
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from lxmert_dist.cluster.scaling import Collective, collectives
from lxmert_dist.config import PretrainConfig, load_config
from lxmert_dist.schema import MicroBatch
from lxmert_dist.tasks import PretrainingTask
from lxmert_dist.train.engine import Engine
from lxmert_dist.train.optimizer import build_optimizer
from lxmert_dist.train.world import World, join, leave
from model_batch import PUBLISHED, make_batch
from record import log_to_mlflow, new_record, write_record

PRECISIONS = ("fp32", "bf16")
STAGES = (0, 1, 2, 3)
SIZES = {"width": 384, "inner": 1536, "heads": 6, "language": 3, "relationship": 2, "cross": 2}
TINY = {"width": 48, "inner": 96, "heads": 4, "language": 1, "relationship": 1, "cross": 1}
MEGABYTES = (1, 4, 16, 64, 128)


def main() -> None:
    """Measure what the arguments say."""
    arguments = parse()
    if arguments.rank is not None:
        print(json.dumps(rank_main(arguments)))
        return
    record = new_record("collectives")
    record["settings"] = {key: getattr(arguments, key) for key in ("pairs", "rounds")}
    record["sizes"] = TINY if arguments.smoke else SIZES
    record |= start(arguments, ranks=2)
    record["alone"] = start(arguments, ranks=1)["steps"]
    predict(record)
    if not arguments.smoke:
        write_record(record)
        log_to_mlflow(record, figures(record))
    print(table(record))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=4, help="of a rank in a step (default 4)")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each (default 5)")
    parser.add_argument("--smoke", action="store_true", help="a tiny model; nothing is written")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--ranks", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def start(arguments: argparse.Namespace, *, ranks: int) -> dict:
    """Run all parts on so many ranks; what rank 0 found."""
    apart = private_network() if ranks > 1 else []
    line = [sys.executable, __file__, "--ranks", str(ranks)]
    line += ["--pairs", str(arguments.pairs), "--rounds", str(arguments.rounds)]
    line += ["--smoke"] if arguments.smoke else []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    place |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PRIVATE": "1" if apart else ""}
    # The first rank makes the network, and starts the others in it.
    done = subprocess.run(
        [*apart, *line, "--rank", "0"],
        env=os.environ | place,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def private_network() -> list[str]:
    """What starts a process in a network of its own; nothing where that is not allowed."""
    line = ["unshare", "--net", "--uts"]
    if shutil.which("unshare") is None:
        return []
    probe = subprocess.run([*line, "true"], capture_output=True, check=False)
    return line if probe.returncode == 0 else []


# ---- a rank


def rank_main(arguments: argparse.Namespace) -> dict:
    """All parts, on one rank."""
    torch.set_num_threads(1)
    rank, ranks = arguments.rank, arguments.ranks
    others = []
    if rank == 0:
        if os.environ["PRIVATE"]:
            raise_loopback()
        line = [sys.executable, __file__, *sys.argv[1:]]
        line[line.index("--rank") + 1] = "1"
        others = [subprocess.Popen(line, stdout=subprocess.DEVNULL)] if ranks > 1 else []
    world = World(rank, ranks, rank, ranks)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    join(world, timeout_seconds=120)
    try:
        found = {"rates": rates(arguments) if ranks > 1 else [], **steps(arguments, world)}
    finally:
        leave(world)
    for other in others:
        if other.wait(timeout=60):
            raise SystemExit("the other rank failed")
    return found


def raise_loopback() -> None:
    """A new network's loopback is down, and nobody in it knows the name of the host."""
    socket.sethostname("localhost")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        up = struct.pack("16sh14x", b"lo", 1)  # struct ifreq: name, IFF_UP
        fcntl.ioctl(any_socket, 0x8914, up)  # SIOCSIFFLAGS


def sent_bytes() -> int:
    """By all ranks so far, headers of packets included; 0 where other processes share the lo."""
    if not os.environ["PRIVATE"]:
        return 0
    lines = Path("/proc/self/net/dev").read_text().splitlines()
    fields = next(line for line in lines if line.strip().startswith("lo:")).split(":")[1].split()
    return int(fields[8])


def rates(arguments: argparse.Namespace) -> list[dict]:
    """Seconds and bytes of each collective at each size."""
    found = []
    ranks = dist.get_world_size()
    for megabytes in MEGABYTES[:2] if arguments.smoke else MEGABYTES:
        whole = torch.ones(megabytes * 2**20 // 4)
        part = torch.ones(len(whole) // ranks)
        calls: dict[str, Callable[[], object]] = {
            "all_reduce": lambda whole=whole: dist.all_reduce(whole),
            "all_gather": lambda whole=whole, part=part: dist.all_gather_into_tensor(whole, part),
            "reduce_scatter": lambda whole=whole, part=part: dist.reduce_scatter_tensor(
                part, whole
            ),
        }
        for kind, call in calls.items():
            seconds, sent = timed(call, arguments.rounds)
            found.append(
                {"kind": kind, "num_bytes": whole.nbytes, "seconds": seconds, "sent_bytes": sent}
            )
    return found


def steps(arguments: argparse.Namespace, world: World) -> dict:
    """Steps under every stage and, in all processes at once, of a plain loop."""
    with tempfile.TemporaryDirectory() as folder:
        batch = make_batch(Path(folder), arguments.pairs, 1)
    found: list[dict] = []
    params = 0
    for precision in PRECISIONS:
        for stage in (None, *STAGES):
            config = config_of(arguments, precision, stage or 0)
            torch.manual_seed(0)
            task = PretrainingTask(config.model, config.objectives, PUBLISHED)
            params = sum(p.numel() for p in task.parameters())
            step = (
                plain(task, config, batch) if stage is None else under(task, config, batch, world)
            )
            seconds, sent = timed(step, arguments.rounds)
            found.append(
                {
                    "precision": precision,
                    "stage": stage,
                    "seconds": seconds,
                    "sent_bytes": sent / max(1, world.size),
                }
            )
    return {"params": params, "steps": found}


def config_of(arguments: argparse.Namespace, precision: str, stage: int) -> PretrainConfig:
    """A recipe at the benchmark's size."""
    sizes = TINY if arguments.smoke else SIZES
    pairs = arguments.pairs * arguments.ranks
    chosen = [
        "name=collectives",
        "data.store=none",
        f"data.lanes={arguments.ranks}",
        f"train.global_batch_size={pairs}",
        f"train.precision={precision}",
        f"train.zero_stage={stage}",
        f"model.hidden_size={sizes['width']}",
        f"model.intermediate_size={sizes['inner']}",
        f"model.num_heads={sizes['heads']}",
        *(f"model.num_{k}_layers={sizes[k]}" for k in ("language", "relationship", "cross")),
    ]
    return load_config(PretrainConfig, None, chosen)


def loss_of(task: PretrainingTask, report, batch: MicroBatch, ranks: int) -> Tensor:
    """The total of the weighted means, this rank's part."""
    weights = task.loss_weights_at(0)
    terms = [weights[n] * report.losses[n] / max(batch.counts[n], 1.0) / ranks for n in weights]
    return torch.stack(terms).sum()


def under(
    task: PretrainingTask, config: PretrainConfig, batch: MicroBatch, world: World
) -> Callable[[], None]:
    """A step under DeepSpeed."""
    engine = Engine(task, config, world)
    engine.train()

    def step() -> None:
        engine.backward(loss_of(task, engine(batch), batch, world.size))
        engine.step(1e-5)

    return step


def plain(task: PretrainingTask, config: PretrainConfig, batch: MicroBatch) -> Callable[[], None]:
    """A step of the same task without DeepSpeed; in bf16 with fp32 masters."""
    task.train()
    if config.train.precision == "bf16":
        task.bfloat16()
    params = list(task.parameters())
    masters = [p.detach().float() for p in params]
    optimizer = build_optimizer(config.optimizer, masters)

    def step() -> None:
        loss_of(task, task(batch), batch, 1).backward()
        for master, param in zip(masters, params, strict=True):
            master.grad, param.grad = param.grad.float(), None
        torch.nn.utils.clip_grad_norm_(masters, config.optimizer.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_copy_(params, masters)

    return step


def timed(call: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median seconds of a call that all ranks make, and bytes that all of them send in one."""
    call()
    seconds: list[float] = []
    sent: list[int] = []
    for _ in range(rounds):
        dist.barrier()
        before, began = sent_bytes(), time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
        dist.barrier()
        sent.append(sent_bytes() - before)
    return statistics.median(seconds), statistics.median(sent)


# ---- the planner's word for it


def predict(record: dict) -> None:
    """Beside each measured step of two ranks: what it should send, and how long it should take.

    What gloo sends of a tensor, and at which rate, is what it did of the largest one: to reduce and
    scatter it sends twice as much as a ring needs.
    """
    for row in record["steps"]:
        plain_step = next(
            other["seconds"]
            for other in record["steps"]
            if other["stage"] is None and other["precision"] == row["precision"]
        )
        sends = [] if row["stage"] is None else sends_of(row, record["params"])
        rates = [(each.num_bytes, rate_of(each, record)) for each in sends]
        row["predicted_bytes"] = sum(
            size * rate["sent_bytes"] / 2 / rate["num_bytes"] for size, rate in rates
        )
        row["predicted_seconds"] = plain_step + sum(
            size * rate["seconds"] / rate["num_bytes"] for size, rate in rates
        )


def sends_of(row: dict, params: int) -> list[Collective]:
    """As the planner counts them."""
    chosen = [
        "name=collectives",
        "data.store=none",
        f"train.precision={row['precision']}",
        f"train.zero_stage={row['stage']}",
    ]
    train = load_config(PretrainConfig, None, chosen).train
    return collectives(train, params, 2, micro_batches=1)


def rate_of(send: Collective, record: dict) -> dict:
    """What was measured of the largest tensor."""
    of_kind = [rate for rate in record["rates"] if rate["kind"] == send.kind]
    return max(of_kind, key=lambda rate: rate["num_bytes"])


def figures(record: dict) -> dict[str, float]:
    """The numbers by name, for MLflow."""
    return {
        f"{row['precision']}_zero{row['stage']}_seconds": row["seconds"]
        for row in record["steps"]
        if row["stage"] is not None
    }


def table(record: dict) -> str:
    """For people."""
    return "\n".join(lines_of(record))


def lines_of(record: dict) -> Iterator[str]:
    """One line for each collective and size, and one for each step."""
    for rate in record["rates"]:
        yield (
            f"{rate['kind']} of {rate['num_bytes'] / 2**20:.0f} MiB: "
            f"{rate['num_bytes'] / rate['seconds'] / 1e6:.0f} MB/s, "
            f"{rate['sent_bytes'] / 2 / rate['num_bytes']:.3f} of it sent by a rank"
        )
    for row in record["steps"]:
        name = "plain" if row["stage"] is None else f"ZeRO-{row['stage']}"
        yield (
            f"{row['precision']} {name}: {row['seconds']:.3f} s, predicted "
            f"{row['predicted_seconds']:.3f} s; {row['sent_bytes'] / 1e6:.1f} MB sent by a rank, "
            f"predicted {row['predicted_bytes'] / 1e6:.1f} MB"
        )
    for row in record["alone"]:
        name = "plain" if row["stage"] is None else f"ZeRO-{row['stage']}"
        yield f"one rank, {row['precision']} {name}: {row['seconds']:.3f} s"


if __name__ == "__main__":
    main()
