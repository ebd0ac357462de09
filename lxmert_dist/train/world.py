"""The ranks of a run and the few collectives that the loop needs besides the engine's own."""

import datetime
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from lxmert_dist.errors import ClusterError


@dataclass(frozen=True)
class World:
    """This process among the ranks of the run, and the device that it computes on."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this rank writes logs and checkpoints."""
        return self.rank == 0


def best_device(local_rank: int) -> torch.device:
    """The rank's GPU where there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def backend(device: torch.device) -> str:
    """The collective library of a device: NCCL on GPUs, Gloo on CPUs."""
    return "nccl" if device.type == "cuda" else "gloo"


def join(world: World, *, timeout_seconds: int) -> None:
    """Form the process group that DeepSpeed then uses, unless there is one (as under Ray).

    Several ranks meet by the usual ``MASTER_ADDR`` and ``MASTER_PORT``; a single one needs neither.

    Args:
        world: this process among the ranks.
        timeout_seconds: how long a collective waits for a rank that stays away.

    Raises:
        ClusterError: the other ranks could not be reached in time.
    """
    if dist.is_initialized():
        return
    try:
        dist.init_process_group(
            backend(world.device),
            init_method="env://" if world.size > 1 else None,
            store=None if world.size > 1 else dist.HashStore(),  # type: ignore[attr-defined]
            rank=world.rank,
            world_size=world.size,
            timeout=datetime.timedelta(seconds=timeout_seconds),
        )
    except (RuntimeError, ValueError) as error:
        raise ClusterError(
            f"rank {world.rank} of {world.size} could not meet the others within "
            f"{timeout_seconds} s: {error}; check MASTER_ADDR, MASTER_PORT, and that all were "
            "started"
        ) from error


def introduction(world: World, host: str) -> str:
    """What a rank says once of itself: where it is, and what it computes and talks with."""
    return f"rank {world.rank} of {world.size} on {host}, {world.device} ({backend(world.device)})"


def meeting_host() -> str:
    """Where rank 0 is, as every launcher, Ray too, tells torch."""
    return os.environ["MASTER_ADDR"]


def bound_collectives(timeout_seconds: int) -> None:
    """Let every process group that is made from now on give up after ``timeout_seconds``.

    DeepSpeed makes groups of its own and names no timeout; torch's default is 30 minutes, and of
    NCCL ten.
    """
    limit = datetime.timedelta(seconds=timeout_seconds)
    distributed_c10d.default_pg_timeout = limit
    distributed_c10d.default_pg_nccl_timeout = limit  # type: ignore[attr-defined]


def leave(world: World) -> None:
    """Dissolve the process group of several ranks.

    That of a single rank stays, since DeepSpeed, once loaded, goes on using it for a next run in
    the same process.
    """
    if dist.is_initialized() and world.size > 1:
        dist.destroy_process_group()


def total(values: Mapping[str, float | torch.Tensor], world: World) -> dict[str, float]:
    """Sum named numbers over all ranks, in float64; every rank passes the same names."""
    numbers = [
        (v.detach() if isinstance(v, torch.Tensor) else torch.tensor(v, dtype=torch.float64)).to(
            world.device, torch.float64
        )
        for v in values.values()
    ]
    summed = torch.stack(numbers)
    if world.size > 1:
        dist.all_reduce(summed)
    return dict(zip(values, summed.tolist(), strict=True))


def identity_parts(identity: int) -> dict[str, float]:
    """A 64-bit identity in parts of 16 bits, which sums over ranks keep to the last bit."""
    return {f"identity {k}": float((identity >> (16 * k)) & 0xFFFF) for k in range(4)}


def identity_of(parts: Mapping[str, float]) -> int:
    """The sum, mod 2^64, of the identities whose parts were summed; other names do not count."""
    return sum(int(parts[f"identity {k}"]) << (16 * k) for k in range(4)) % 2**64


def agree(text: str, world: World) -> str:
    """Rank 0's text, on every rank."""
    if world.size == 1:
        return text
    data = _bytes(text).to(world.device)
    length = torch.tensor([data.numel()], device=world.device)
    dist.broadcast(length, 0)
    if not world.is_main:
        data = torch.empty(int(length), dtype=torch.uint8, device=world.device)
    dist.broadcast(data, 0)
    return _text(data)


def agree_on_any(text: str, world: World) -> str:
    """The text of the first rank that has one, on every rank; empty if none has."""
    return next(filter(None, gather_texts(text, world)), "")


def gather_texts(text: str, world: World, group: dist.ProcessGroup | None = None) -> list[str]:
    """Every rank's text, on every rank.

    The bytes travel as they are: PyTorch's collectives of objects would unpickle what comes from
    the network, and so run any code that somebody on it sends.

    Args:
        text: this rank's.
        world: the ranks.
        group: of Gloo, with all ranks; None is the run's own.
    """
    if world.size == 1:
        return [text]
    device = world.device if group is None else torch.device("cpu")
    own = _bytes(text).to(device)
    length = torch.tensor([own.numel()], device=device)
    lengths = [torch.empty_like(length) for _ in range(world.size)]
    dist.all_gather(lengths, length, group=group)
    padded = torch.zeros(int(max(lengths)), dtype=torch.uint8, device=device)
    padded[: own.numel()] = own
    found = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(found, padded, group=group)
    return [_text(data[: int(n)]) for data, n in zip(found, lengths, strict=True)]


def _bytes(text: str) -> torch.Tensor:
    """(N,) uint8, and at least one, since not every library takes an empty tensor."""
    return torch.frombuffer(bytearray(text.encode() + b"\0"), dtype=torch.uint8)


def _text(data: torch.Tensor) -> str:
    return data.cpu().numpy().tobytes().decode().removesuffix("\0")
