"""What a pretraining run would take on a cluster that nobody has started yet.

``python -m lxmert_dist.cluster.planner --gpus 64 --gpu h100 --storage-gbps 10`` prints it. A step
takes

    max(compute + update, host) + exposed communication,

and no less than what storage, collation or the network's share of a checkpoint need for it, since
these work behind the training. ``work.py`` and ``scaling.py`` have the formulas of what a step
asks, ``hardware.py`` the assumptions about what answers.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lxmert_dist.cluster.amounts import Amounts
from lxmert_dist.cluster.hardware import (
    COLLATED_PAIRS,
    LINK_SHARE,
    MEMORY_SHARE,
    MESSAGE_SECONDS,
    OPERATION_SECONDS,
    Cluster,
)
from lxmert_dist.cluster.scaling import (
    STATE,
    Collective,
    collectives,
    effective_stage,
    held_bytes,
    item_bytes,
    update_bytes,
)
from lxmert_dist.cluster.work import (
    activation_bytes,
    count_flops,
    count_operations,
    count_params,
    expected_rows,
)
from lxmert_dist.config import PretrainConfig, TrainConfig, deepspeed_config
from lxmert_dist.errors import ConfigError
from lxmert_dist.stream.passes import plan_passes
from lxmert_dist.stream.plan import PlanSettings
from lxmert_dist.stream.simulate import simulate_epoch

GB = 1e9
HEADROOM = 0.9
"""Of a GPU's memory that a run may fill; the rest is for libraries and fragments."""


@dataclass(frozen=True)
class Traffic:
    """What a whole run moves to and from object storage."""

    steps: int
    epochs: int
    feature_bytes: float
    """Read, over all epochs and ranks, without a cache."""
    cached_bytes: float
    """The same where every node keeps what it fetched (``data.cache``), with room for all."""
    feature_gets: int
    read_ratio: float
    """Bytes read in the first epoch over those in the store."""
    opening_bytes: float
    opening_gets: int
    checkpoint_bytes: float
    """Of one checkpoint."""
    checkpoints: int
    """Written in the run, without those kept for the best."""

    def read_bytes(self, *, cached: bool) -> float:
        """By all ranks over the run."""
        return self.opening_bytes + (self.cached_bytes if cached else self.feature_bytes)


@dataclass(frozen=True)
class Prediction:
    """A run on a cluster, at one utilisation of the GPUs."""

    cluster: Cluster
    stage: int
    global_batch: int
    micro_batch: int
    micro_batches: int
    """Of a rank in a step."""
    params: int
    mfu: float
    flops: float
    """Of a step, all ranks."""
    sends: list[Collective]
    parts: Mapping[str, float]
    """Seconds of a step: those that add up, and those that work behind them."""
    memory: Mapping[str, float]
    """Bytes on a GPU."""
    traffic: Traffic

    @property
    def training_seconds(self) -> float:
        """A step, if nothing behind it were slow."""
        parts = self.parts
        return max(parts["compute"] + parts["update"], parts["host"]) + parts["communication"]

    @property
    def step_seconds(self) -> float:
        """A step."""
        behind = (self.parts[name] for name in BEHIND)
        return max(self.training_seconds, *behind)

    @property
    def pairs_per_second(self) -> float:
        """Of all GPUs."""
        return self.global_batch / self.step_seconds

    @property
    def start_seconds(self) -> float:
        """Reading sentences and small arrays, before the first step."""
        return self.traffic.opening_bytes / (self.cluster.storage_gbps * 1e9 / 8)

    @property
    def hours(self) -> float:
        """Of the run, without validation and start-up of processes."""
        return (self.start_seconds + self.traffic.steps * self.step_seconds) / 3600

    @property
    def gpu_hours(self) -> float:
        """That somebody pays for."""
        return self.hours * self.cluster.gpus

    @property
    def binds(self) -> list[tuple[str, float]]:
        """What a step waits for, the longest first, with its seconds."""
        return sorted(self.parts.items(), key=lambda part: -part[1])

    @property
    def held_bytes(self) -> float:
        """On a GPU, at most."""
        return sum(self.memory.values())

    @property
    def notes(self) -> Iterator[str]:
        """What somebody should know before starting it."""
        ranks, parts = self.cluster.gpus, self.parts
        share = self.micro_batch * self.micro_batches
        if parts["host"] > parts["compute"] + parts["update"]:
            enough = math.ceil(share * (parts["host"] - parts["update"]) / parts["compute"])
            yield (
                f"a GPU has {share} of the {self.global_batch:,} pairs of a step and waits for its "
                f"host; about {enough} pairs a GPU (train.global_batch_size={enough * ranks}, "
                "which is another recipe) or train.compile would keep it busy"
            )
        if self.start_seconds > 60:
            yield (
                f"the start takes {self.start_seconds:.0f} s: each of {ranks} ranks reads "
                f"{self.traffic.opening_bytes / ranks / GB:.2f} GB of sentences and small arrays"
            )


BEHIND = ("storage", "collation", "checkpoint")
"""What works behind the training, and holds it up only where it takes longer."""


def predict(
    config: PretrainConfig,
    cluster: Cluster,
    amounts: Amounts,
    mfus: Sequence[float],
    traffic: Traffic | None = None,
) -> list[Prediction]:
    """A run of a configuration on a cluster, at each of some utilisations.

    Args:
        config: batch, stage, precision, model and lanes come from it.
        cluster: what runs it.
        amounts: of the data.
        mfus: model FLOPs utilisations, in (0, 1].
        traffic: that of the same run at another ZeRO stage, which saves the seconds of counting it.

    Raises:
        ConfigError: the GPUs do not divide lanes or batch, or the run does not fit their memory.
    """
    told = deepspeed_config(config, world_size=cluster.gpus)
    micro = int(told["train_micro_batch_size_per_gpu"])
    times = int(told["gradient_accumulation_steps"])
    train, model, spec = config.train, config.model, amounts.spec
    params = count_params(model, config.objectives, spec)
    rows = expected_rows(
        micro,
        amounts.text,
        config.objectives,
        num_objects=spec.num_objects,
        max_tokens=config.data.max_tokens,
        pairs_per_image=config.data.pairs_per_image,
    )
    kept = activation_bytes(
        model,
        config.objectives,
        spec,
        rows,
        item=item_bytes(train),
        recompute=train.activation_checkpointing,
    )
    memory = held_bytes(train, params, cluster.gpus) | {"activations": kept}
    _check_memory(config, cluster, micro, sum(memory.values()))
    flops = count_flops(model, config.objectives, spec, rows)
    computed = times * (flops.step + (flops.encoders if train.activation_checkpointing else 0.0))
    sends = collectives(train, params, cluster.gpus, micro_batches=times)
    traffic = traffic or count_traffic(config, cluster, amounts, params)
    fixed = {
        "update": update_bytes(train, params, cluster.gpus)
        / (MEMORY_SHARE * cluster.gpu.memory_rate),
        "host": times * count_operations(model) * OPERATION_SECONDS,
        "collation": times * micro / COLLATED_PAIRS,
        **_storage(traffic, cluster, cached=bool(config.data.cache)),
    }
    found = []
    for mfu in mfus:
        compute = computed / (mfu * cluster.gpu.flops(train.precision))
        waited = exposed_seconds(sends, cluster, train, params, compute)
        found.append(
            Prediction(
                cluster=cluster,
                stage=effective_stage(train, cluster.gpus),
                global_batch=train.global_batch_size,
                micro_batch=micro,
                micro_batches=times,
                params=params,
                mfu=mfu,
                flops=cluster.gpus * times * flops.step,
                sends=sends,
                parts={"compute": compute, "communication": waited, **fixed},
                memory=memory,
                traffic=traffic,
            )
        )
    return found


def _storage(traffic: Traffic, cluster: Cluster, *, cached: bool) -> dict[str, float]:
    """Seconds of a step that object storage takes to serve it."""
    rate = cluster.storage_gbps * 1e9 / 8
    read = traffic.cached_bytes if cached else traffic.feature_bytes
    written = traffic.checkpoints * traffic.checkpoint_bytes
    return {
        "storage": read / traffic.steps / rate,
        "checkpoint": written / traffic.steps / rate,
    }


def _check_memory(config: PretrainConfig, cluster: Cluster, micro: int, held: float) -> None:
    room = HEADROOM * cluster.gpu.memory_bytes
    if held > room:
        raise ConfigError(
            f"train.micro_batch_size={micro} at train.zero_stage={config.train.zero_stage} takes "
            f"about {held / GB:.0f} GB, and a {cluster.gpu.name} has {room / GB:.0f} GB to give; "
            "make it smaller, set train.activation_checkpointing=true, or raise train.zero_stage"
        )


def exposed_seconds(
    sends: list[Collective], cluster: Cluster, train: TrainConfig, params: int, compute: float
) -> float:
    """What a step waits for the other ranks.

    Where gradients are reduced during the backward pass (``train.overlap_communication``), all but
    the last bucket hide behind it, as far as it lasts: two thirds of the compute.
    """
    rate = LINK_SHARE * cluster.ring_rate
    seconds = [
        send.sent_bytes(cluster.gpus) / rate + send.rounds(cluster.gpus) * MESSAGE_SECONDS
        for send in sends
    ]
    overlaps = train.overlap_communication == "on" or (
        train.overlap_communication == "auto" and train.zero_stage == 3
    )
    if not overlaps or not sends:
        return sum(seconds)
    early = 1 - min(1.0, train.reduce_bucket_size / params)
    reduced = sum(
        each for each, send in zip(seconds, sends, strict=True) if send.kind != "all_gather"
    )
    return sum(seconds) - min(reduced * early, compute * 2 / 3)


def count_traffic(
    config: PretrainConfig, cluster: Cluster, amounts: Amounts, params: int
) -> Traffic:
    """Of the run: its first epoch is planned and carried out without features.

    Weights and stages decide how many steps there are; a step reads as much as one of an epoch over
    all pairs. With a cache a node fetches a shard when it first needs it: with M nodes it has met
    the share 1 - (1 - 1/M)^E of all shards after E epochs, since these are dealt anew each time.
    """
    data, train = config.data, config.train
    plan = PlanSettings(
        data.lanes, data.window_shards, train.global_batch_size, data.pairs_per_image
    )
    epochs = 0 if data.curriculum else train.epochs
    passes = plan_passes(
        amounts.by_source, data.stages, plan, epochs=epochs, max_steps=train.max_steps
    )
    steps = passes[-1].end
    load = simulate_epoch(
        amounts.index,
        plan,
        np.asarray(amounts.shard_bytes, np.int64),
        seed=config.seed,
        epoch=0,
        world_size=cluster.gpus,
        read_ahead_steps=data.read_ahead_steps,
    )
    rounds = steps / load.steps
    nodes, every = cluster.nodes, config.checkpoint.every
    met = nodes * (1 - (1 - 1 / nodes) ** max(1.0, rounds))
    return Traffic(
        steps=steps,
        epochs=len(passes),
        feature_bytes=load.bytes_read * rounds,
        cached_bytes=min(met * load.stored_bytes, load.bytes_read * rounds),
        feature_gets=round(load.objects_read * rounds),
        read_ratio=load.read_ratio,
        opening_bytes=amounts.opening_bytes * cluster.gpus,
        opening_gets=amounts.opening_objects * cluster.gpus,
        checkpoint_bytes=float(STATE * params),
        checkpoints=math.ceil(steps / every) if every else len(passes),
    )


if __name__ == "__main__":  # the command of this name takes over
    import runpy

    runpy.run_module("lxmert_dist.cli.planner", run_name="__main__", alter_sys=True)
