"""What ranks hold and send under each ZeRO stage, by formula, as DeepSpeed 0.19 does it.

Rajbhandari et al. 2020 ("ZeRO") has the idea; where DeepSpeed sends more than the paper's least,
the formulas follow DeepSpeed. What crosses the wire is measured by
``benchmarks/bench_collectives.py``. N ranks, P trained parameters.
"""

from dataclasses import dataclass
from typing import Literal

from lxmert_dist.config.sections import TrainConfig

Kind = Literal["all_reduce", "reduce_scatter", "all_gather"]
STATE = 12
"""Bytes a parameter of fp32 weights and two moments."""


@dataclass(frozen=True)
class Collective:
    """A collective of an optimiser step."""

    kind: Kind
    num_bytes: float
    """Of the whole tensor."""
    calls: int
    """In how many pieces it is sent."""

    def sent_bytes(self, ranks: int) -> float:
        """By each rank, around a ring.

        A tensor of S bytes is cut into N pieces; to reduce and scatter them takes N - 1 rounds of
        S / N, to gather them as many, and to reduce it on all ranks both (Patarasuk & Yuan 2009).
        """
        ways = 2 if self.kind == "all_reduce" else 1
        return ways * self.num_bytes * (ranks - 1) / ranks

    def rounds(self, ranks: int) -> int:
        """Messages that follow each other, each of which waits for the one before."""
        ways = 2 if self.kind == "all_reduce" else 1
        return ways * (ranks - 1) * self.calls


def item_bytes(train: TrainConfig) -> int:
    """Of a weight or gradient."""
    return 4 if train.precision == "fp32" else 2


def effective_stage(train: TrainConfig, ranks: int) -> int:
    """The ZeRO stage that runs: as ``config.deepspeed`` has it."""
    alone = ranks == 1 and train.precision == "fp32" and not train.offload_optimizer
    return 0 if alone else train.zero_stage


def collectives(
    train: TrainConfig, params: int, ranks: int, *, micro_batches: int
) -> list[Collective]:
    """Of an optimiser step.

    Stage 0 reduces gradients once a step. Stages 1 and 2 reduce them on all ranks too (DeepSpeed's
    ``use_multi_rank_bucket_allreduce``), stage 2 after every micro-batch, and gather the updated
    weights. Stage 3 gathers the weights of each micro-batch once, since they fit its
    ``stage3_max_live_parameters`` and stay for the backward pass, and scatters the sums of
    gradients.

    Args:
        train: stage, precision and buckets.
        params: P.
        ranks: N >= 1.
        micro_batches: of a rank in a step.
    """
    if ranks == 1:
        return []
    size = float(params * item_bytes(train))
    pieces = -(-params // train.reduce_bucket_size)
    match train.zero_stage:
        case 0:
            return [Collective("all_reduce", size, pieces)]
        case 1 | 2:
            times = micro_batches if train.zero_stage == 2 else 1
            gathered = -(-params // train.allgather_bucket_size)
            return [
                Collective("all_reduce", times * size, times * pieces),
                Collective("all_gather", size, gathered),
            ]
        case _:
            gathers = micro_batches * -(-params // _PREFETCHED)
            return [
                Collective("all_gather", micro_batches * size, gathers),
                Collective("reduce_scatter", micro_batches * size, micro_batches * pieces),
            ]


_PREFETCHED = 50_000_000
"""Elements that stage 3 gathers at once (``stage3_prefetch_bucket_size``)."""


def held_bytes(train: TrainConfig, params: int, ranks: int) -> dict[str, float]:
    """Of the state on each GPU, by part; activations are apart (``work.activation_bytes``).

    In half precision weights and gradients take 2 P bytes each and the optimiser's fp32 weights and
    moments 12 P; in fp32 the weights are the optimiser's at stage 0, and a copy beside it from
    stage 1 on. Stage 1 shares the optimiser's part among N ranks, stage 2 the gradients, stage 3
    the weights (paper, section 5), which it holds whole while a micro-batch is computed. Before
    the update a rank has its share of the gradients in fp32 too. Buckets are as large as they are
    set, and no larger than the model.
    """
    item, stage = item_bytes(train), effective_stage(train, ranks)
    whole, share = float(params), params / ranks
    plain = stage == 0 and item == 4
    optimizer = (8 if plain else STATE) * (share if stage else whole)
    updated = 0.0 if plain or train.offload_optimizer else share if stage else whole
    bucket = item * float(min(params, train.reduce_bucket_size))
    buckets = bucket * (2 if train.overlap_communication == "on" else 1)
    return {
        "weights": item * whole,
        "gradients": item * (share if stage >= 2 else whole),
        "optimizer": 0.0 if train.offload_optimizer else optimizer,
        "fp32 gradients": 4 * updated,
        "buckets": buckets if ranks > 1 else 0.0,
    }


def update_bytes(train: TrainConfig, params: int, ranks: int) -> float:
    """That clipping and the update move in a GPU's memory, in the fewest passes.

    The norm reads the gradients; the update reads gradient, weight and two moments in fp32 and
    writes all but the gradient; half precision reads its own gradient to make the fp32 one, and
    writes its weight. From stage 1 on a rank does so for its share.
    """
    item, stage = item_bytes(train), effective_stage(train, ranks)
    share = params / ranks if stage else float(params)
    moved = 4 + 4 + 2 * STATE + (0 if item == 4 else item + 4 + item)
    return share * moved
