"""Where the time of a step of ours goes, by room: about thirty lines for people.

Forward and backward of each room are timed by module hooks; what is left of a pass (residuals
between rooms, the losses, the look-up's gradient) stands in rows of its own.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch.distributed as dist
from torch import nn

from contestants import Contestant
from lxmert_dist.schema import MicroBatch

STEPS = 5


class Stopwatch:
    """Seconds by name, with the device waited for at each stop."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._wait = wait
        self._began: dict[str, float] = {}

    def start(self, name: str) -> None:
        """Begin, or begin again."""
        self._wait()
        self._began[name] = time.perf_counter()

    def stop(self, name: str) -> None:
        """Add the time since the start, if there was one."""
        self._wait()
        if name in self._began:
            self.seconds[name] += time.perf_counter() - self._began.pop(name)


def rooms(task: nn.Module) -> dict[str, nn.Module]:
    """The parts of a step that have parameters, in the order of the paper."""
    model = task.model
    found = {
        "text embedding": model.text_embedding,
        "visual embedding": model.visual_embedding,
        "language encoder": model.language_encoder,
        "object-relationship encoder": model.object_relationship_encoder,
    }
    for number, layer in enumerate(model.cross_modality_encoder.layers, start=1):
        found[f"cross-modality layer {number}"] = layer
    found["pooler"] = model.pooler
    heads = ("masked_lm_head", "matching_head", "visual_head", "answer_head")  # fine-tuning has one
    return found | {
        name.replace("_", " "): getattr(task, name) for name in heads if hasattr(task, name)
    }


def profile(runner: Contestant, batch: MicroBatch) -> str:
    """The report of a few steps."""
    watch = Stopwatch(runner.wait)
    for name, module in rooms(runner.module).items():
        _time(module, name, watch)
    steps = []
    for number in range(-2, STEPS):
        watch.seconds.clear()
        _step(runner, batch, watch)
        if number >= 0:
            steps.append(dict(watch.seconds))
    names = {name for step in steps for name in step}
    return report({n: statistics.median(s.get(n, 0.0) for s in steps) for n in names}, runner)


def _step(runner: Contestant, batch: MicroBatch, watch: Stopwatch) -> None:
    watch.start("forward")
    loss = runner.loss(batch)
    watch.stop("forward")
    watch.start("backward")
    loss.backward()
    watch.stop("backward")
    watch.start("communication")
    if dist.is_initialized():
        for parameter in runner.params:
            dist.all_reduce(parameter.grad)
    watch.stop("communication")
    watch.start("clip and optimiser")
    runner.clip_and_update()
    watch.stop("clip and optimiser")


def _time(module: nn.Module, name: str, watch: Stopwatch) -> None:
    forward, backward = f"forward {name}", f"backward {name}"
    module.register_forward_pre_hook(lambda *_: watch.start(forward))
    module.register_forward_hook(lambda *_: watch.stop(forward))
    module.register_full_backward_pre_hook(lambda *_: watch.start(backward))
    module.register_full_backward_hook(lambda *_: watch.stop(backward))


def report(seconds: dict[str, float], runner: Contestant) -> str:
    """A table with the share of each room."""
    passes = ("forward", "backward")
    rest = ("communication", "clip and optimiser")
    total = sum(seconds[name] for name in (*passes, *rest))

    def line(name: str, parts: list[float]) -> str:
        cells = "".join(f"{1e3 * part:11.1f}" if part else f"{'-':>11}" for part in parts)
        return f"{name:<30}{cells}{sum(parts):>11.3f}{sum(parts) / total:>8.1%}"

    named = list(rooms(runner.module))
    lines = [f"{'room':<30}{'forward ms':>11}{'backward ms':>11}{'seconds':>11}{'share':>8}"]
    lines += [line(name, [seconds.get(f"{kind} {name}", 0.0) for kind in passes]) for name in named]
    left = [seconds[k] - sum(seconds.get(f"{k} {name}", 0.0) for name in named) for k in passes]
    lines.append(line("losses, and between rooms", left))
    lines += [line(name, [0.0, seconds[name]]) for name in rest]
    lines.append(line("whole step", [seconds["forward"], total - seconds["forward"]]))
    if not dist.is_initialized():
        lines.append("communication: a single process has none")
    return "\n".join(lines)
