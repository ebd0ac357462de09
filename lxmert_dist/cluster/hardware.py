"""What a planner takes GPUs and the links between them to be able to do.

Nothing of a GPU was measured by this project. Peaks are NVIDIA's (data sheets of the H100 SXM5,
H200 and A100 SXM 80 GB; products without sparsity); links are those of DGX nodes of eight.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU. Rates are peaks a second."""

    name: str
    half_flops: float
    """Products in bf16 and fp16."""
    single_flops: float
    """Products in fp32 proper, which ours are, not TF32."""
    memory_bytes: float
    memory_rate: float
    """Bytes."""
    link_rate: float
    """Bytes out of a GPU to others of its node (NVLink, one direction)."""
    network_gbps: float
    """Gbit out of a node of eight."""

    def flops(self, precision: str) -> float:
        """Of products in a precision."""
        return self.single_flops if precision == "fp32" else self.half_flops


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("h100", 989e12, 67e12, 80e9, 3.35e12, 450e9, 3200),
        Gpu("h200", 989e12, 67e12, 141e9, 4.8e12, 450e9, 3200),
        Gpu("a100", 312e12, 19.5e12, 80e9, 2.039e12, 300e9, 1600),
    )
}


@dataclass(frozen=True)
class Cluster:
    """GPUs in nodes, and what reaches them."""

    gpu: Gpu
    gpus: int
    gpus_per_node: int
    network_gbps: float
    """Gbit/s out of a node."""
    storage_gbps: float
    """Gbit/s that the object storage gives all nodes together."""

    @property
    def nodes(self) -> int:
        """How many."""
        return -(-self.gpus // self.gpus_per_node)

    @property
    def ring_rate(self) -> float:
        """Bytes/s around the slowest link of a collective's rings.

        Within a node that is a GPU's own link. Between nodes all rings share what leaves a node.
        """
        within = self.gpu.link_rate
        return within if self.nodes == 1 else min(within, self.network_gbps * 1e9 / 8)


LINK_SHARE = 0.8
"""Of a link's peak, that collectives of large tensors reach."""

MEMORY_SHARE = 0.8
"""Of the memory's peak, that an update reaches."""

MESSAGE_SECONDS = 5e-6
"""From one rank of a ring to the next, for a message of no size."""

OPERATION_SECONDS = 6e-6
"""Of the host, for an operation that eager PyTorch starts on the GPU."""

MFU = (0.25, 0.35, 0.45)
"""Model FLOPs utilisation: of the peak, what products reach with all that stands between them.
The middle one is the prediction, the others its range."""

COLLATED_PAIRS = 37_000.0
"""Pairs a second that one core of a rank reads and collates; this one was measured, on a CPU of
2 cores (benchmarks/RESULTS.md, batches of pairs from the local store)."""
