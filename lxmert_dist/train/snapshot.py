"""A copy of an engine's state in the memory of the host: taken by every rank, whole on rank 0.

What ZeRO scatters is copied where it is and gathered from there, over a process group of its own,
so that neither needs the training to stand still: only an update must wait for the copy.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lxmert_dist.train.world import World, gather_texts


@dataclass(frozen=True)
class Fragment:
    """A part of a parameter's weights or moments that this rank has to give."""

    name: str
    """Of the parameter."""
    start: int
    """Where in the flattened parameter it begins."""
    tensor: Tensor
    """(N,) fp32, where the engine has it; constant between two updates."""


Fragments = Mapping[str, Sequence[Fragment]]
"""By part of the state."""
Layout = list[tuple[str, int, int]]
"""Name, start and length of a rank's fragments, in the order in which they are sent."""


class Snapshot:
    """Buffers that are filled anew for every checkpoint; pinned where the state is on a GPU.

    Rank 0 holds the whole state, 12 bytes a parameter; the others what they have to give.
    """

    def __init__(
        self, shapes: Mapping[str, torch.Size], world: World, *, timeout_seconds: float
    ) -> None:
        """A collective.

        Args:
            shapes: of the parameters, by name.
            world: the ranks.
            timeout_seconds: how long the gathering waits for a rank that stays away.
        """
        self._shapes = shapes
        self._world = world
        self._parts: dict[str, _Part] = {}
        self._group: Any = None
        if world.size > 1:
            timeout = datetime.timedelta(seconds=timeout_seconds)
            self._group = dist.new_group(backend="gloo", timeout=timeout)

    def prepare(self, fragments: Fragments) -> "torch.cuda.Event | None":
        """Before the first copy, tell rank 0 who gives what; a collective then.

        Returns:
            On a GPU, the moment from which on the state is that of the last update.
        """
        for part, given in fragments.items():
            if part not in self._parts:
                layout = [(f.name, f.start, f.tensor.numel()) for f in given]
                self._parts[part] = _Part(self._layouts(layout))
        if self._world.device.type != "cuda":
            return None
        ready: torch.cuda.Event = torch.cuda.current_stream().record_event()
        return ready

    @torch.no_grad()
    def copy(self, fragments: Fragments, ready: "torch.cuda.Event | None") -> None:
        """Copy this rank's fragments; in a thread of its own, since the training goes on."""
        stream = None
        if ready is not None:
            torch.cuda.set_device(self._world.device)
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_event(ready)
        with torch.cuda.stream(stream):
            for part, given in fragments.items():
                targets = self._targets(self._parts[part], given)
                for fragment, target in zip(given, targets, strict=True):
                    target.copy_(fragment.tensor, non_blocking=True)
        if stream is not None:
            stream.synchronize()

    def gather(self) -> dict[str, dict[str, Tensor]]:
        """After the copy: by part and name, the whole fp32 tensors on rank 0, none elsewhere.

        They are valid until the next copy. All ranks take part, in any thread.
        """
        for part in self._parts.values():
            if self._world.is_main:
                self._receive(part)
            elif part.flat is not None and part.flat.numel():
                dist.send(part.flat, 0, group=self._group)
        return {name: part.whole for name, part in self._parts.items()}

    def _receive(self, part: "_Part") -> None:
        for rank, layout in enumerate(part.layouts):
            if rank == 0 or not layout:
                continue
            flat = torch.empty(sum(length for _, _, length in layout))
            dist.recv(flat, rank, group=self._group)
            pieces = torch.split(flat, [length for _, _, length in layout])
            for (name, start, length), piece in zip(layout, pieces, strict=True):
                part.whole[name].view(-1)[start : start + length] = piece

    def _targets(self, part: "_Part", given: Sequence[Fragment]) -> list[Tensor]:
        """Where each fragment goes: at its place in the whole, or behind the one before it."""
        lengths = [fragment.tensor.numel() for fragment in given]
        if not self._world.is_main:
            if part.flat is None:
                part.flat = self._buffer(sum(lengths))
            return list(torch.split(part.flat, lengths))
        if part.flat is None:
            names = {name for layout in part.layouts for name, _, _ in layout}
            shapes = {name: shape for name, shape in self._shapes.items() if name in names}
            part.flat = self._buffer(sum(shape.numel() for shape in shapes.values()))
            pieces = torch.split(part.flat, [shape.numel() for shape in shapes.values()])
            part.whole = {
                name: piece.view(shape)
                for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
            }
        return [
            part.whole[fragment.name].view(-1)[fragment.start :][:length]
            for fragment, length in zip(given, lengths, strict=True)
        ]

    def _buffer(self, length: int) -> Tensor:
        return torch.empty(length, pin_memory=self._world.device.type == "cuda")

    def _layouts(self, own: Layout) -> list[Layout]:
        found = gather_texts(json.dumps(own), self._world, self._group)
        return [[(name, start, length) for name, start, length in json.loads(t)] for t in found]


class _Part:
    """One part of the state: what each rank gives, and where this rank keeps it."""

    def __init__(self, layouts: list[Layout]) -> None:
        self.layouts = layouts
        self.flat: Tensor | None = None
        self.whole: dict[str, Tensor] = {}
