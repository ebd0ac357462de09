"""DeepSpeed around a task. The only file that imports it.

The state of an engine is taken and given as full fp32 tensors by parameter name, whatever the
ZeRO stage, the precision and the number of ranks, so that a checkpoint fits all of them.
"""

import logging
import os
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from lxmert_dist.config import RunConfig, deepspeed_config
from lxmert_dist.errors import CheckpointError
from lxmert_dist.schema import LossReport, MicroBatch
from lxmert_dist.train.optimizer import build_optimizer
from lxmert_dist.train.world import World

MOMENTS = ("exp_avg", "exp_avg_sq")
PARTS = ("weights", *MOMENTS)
"""The parts of an engine's state, each one tensor per parameter."""


class Engine:
    """A task under DeepSpeed ZeRO."""

    def __init__(self, task: nn.Module, config: RunConfig, world: World) -> None:
        """Wrap ``task``; the process group exists already.

        Raises:
            ConfigError: batch sizes, lanes and ranks do not divide.
        """
        settings = deepspeed_config(config, world_size=world.size)
        deepspeed = _import_deepspeed(world)
        self.accumulation = int(settings["gradient_accumulation_steps"])
        self._stage = config.train.zero_stage
        self._world = world
        task.to(world.device)
        self._client = build_optimizer(
            config.optimizer, [p for p in task.parameters() if p.requires_grad]
        )
        self._engine, self._optimizer, *_ = deepspeed.initialize(
            model=task, optimizer=self._client, config=settings, dist_init_required=False
        )
        self._create_moments()
        if config.train.compile:
            self._engine.compile()

    def __call__(self, batch: MicroBatch) -> LossReport:
        """The task's losses on one micro-batch, as sums."""
        report: LossReport = self._engine(batch.to(self._world.device))
        return report

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss``, this rank's part of a sum over ranks and micro-batches.

        The engine averages over both, which is undone here: what is optimised is the sum.
        """
        self._engine.backward(loss * (self.accumulation * self._world.size))

    def end_micro_batch(self) -> None:
        """Between two micro-batches of one step."""
        self._engine.step()

    def step(self, learning_rate: float) -> float:
        """After the last micro-batch: clip, update; returns the gradient norm before clipping."""
        norm = self._plain_norm()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        return float(self._engine.get_global_grad_norm()) if norm is None else norm

    def _plain_norm(self) -> float | None:
        """DeepSpeed reports no norm at stage 0 in fp32, where the gradients are still whole."""
        if self._optimizer is not self._client:
            return None
        grads = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads))

    def train(self) -> None:
        """Dropout on."""
        self._engine.train()

    def eval(self) -> None:
        """Dropout off."""
        self._engine.eval()

    def state(self, part: str) -> Iterator[tuple[str, Tensor]]:
        """One of ``PARTS``: name and full fp32 tensor of each parameter, on every rank in turn.

        All ranks must walk through it together: ZeRO gathers each tensor from its owners.
        """
        for name, parameter in self._engine.module.named_parameters():
            if parameter.requires_grad:
                tensor = self._get(parameter, part)
            elif part == "weights":
                tensor = self._frozen(parameter)
            else:
                continue
            yield name, tensor.detach().to("cpu", torch.float32, copy=True)

    def set_steps_done(self, steps: int) -> None:
        """Tell an optimiser that corrects its bias how many steps its moments have seen."""
        for state in self._client.state.values():
            if "step" in state:
                state["step"].fill_(float(steps))

    def load(self, part: str, tensors: Mapping[str, Tensor]) -> None:
        """Set a part of the state on all ranks.

        Weights set here are the optimiser's masters; what the model computes with it takes from
        the task when it is built, so ``load_weights`` comes before.

        Raises:
            CheckpointError: a parameter is missing or of another shape.
        """
        for name, parameter in self._engine.module.named_parameters():
            if not parameter.requires_grad:
                continue
            if name not in tensors:
                raise CheckpointError(f"the checkpoint has no {part} of parameter {name}")
            self._set(name, parameter, part, tensors[name].to(self._world.device))

    def _create_moments(self) -> None:
        """Give the client optimiser its state now, so that it can be loaded before a first step."""
        match self._stage:
            case 0:
                owners = list(self._masters().values())
            case 3:
                owners = list(self._optimizer.fp32_partitioned_groups_flat)
            case _:
                owners = list(self._optimizer.single_partition_of_fp32_groups)
        for owner in owners:
            state = self._client.state[owner]
            for moment in MOMENTS:
                state[moment] = torch.zeros_like(owner)
            if isinstance(self._client, torch.optim.AdamW):
                state["step"] = torch.zeros((), device=owner.device)
        if self._stage in (1, 2):
            self._optimizer._lazy_init_hp_params_optimizer_state()

    def _get(self, parameter: nn.Parameter, part: str) -> Tensor:
        if self._stage == 0:
            owner = self._masters()[parameter]
            full = owner if part == "weights" else self._client.state[owner][part]
        else:
            from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

            if part == "weights":
                full = safe_get_full_fp32_param(parameter)
            else:
                full = safe_get_full_optimizer_state(parameter, part)
        assert isinstance(full, Tensor)
        return full

    def _frozen(self, parameter: nn.Parameter) -> Tensor:
        """A parameter that is not trained, whole on this rank."""
        if not hasattr(parameter, "ds_id"):
            return parameter
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([parameter]):
            return parameter.detach().clone()

    def _set(self, name: str, parameter: nn.Parameter, part: str, value: Tensor) -> None:
        current = self._get(parameter, part)
        if current.shape != value.shape:
            raise CheckpointError(
                f"{part} of {name} has shape {tuple(value.shape)} in the checkpoint, "
                f"but {tuple(current.shape)} in this model"
            )
        if self._stage == 0:
            with torch.no_grad():
                current.copy_(value)
            return
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if part == "weights":
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, part)

    def _masters(self) -> dict[nn.Parameter, Tensor]:
        """At stage 0, what the optimiser moves for each parameter: itself, or its fp32 master."""
        if self._optimizer is self._client:
            return {p: p for p in self._engine.module.parameters() if p.requires_grad}
        groups = zip(self._optimizer.fp16_groups, self._optimizer.fp32_groups, strict=True)
        return {low: high for lows, highs in groups for low, high in zip(lows, highs, strict=True)}


def load_weights(task: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a task the weights of a checkpoint, before an engine is built around it.

    Raises:
        CheckpointError: they are those of another model; names the first tensor that differs.
    """
    own = task.state_dict()
    for name in {**own, **weights}:
        there = tuple(weights[name].shape) if name in weights else None
        here = tuple(own[name].shape) if name in own else None
        if there != here:
            raise CheckpointError(f"{name} is {there} in the checkpoint, but {here} in this model")
    task.load_state_dict(weights)


def _import_deepspeed(world: World):  # type: ignore[no-untyped-def]
    """Import DeepSpeed, without the shared-memory op that it would compile.

    It reads the device's kind and the local rank from the environment only.
    """
    os.environ.setdefault("LOCAL_RANK", str(world.local_rank))
    if world.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # It warns of every optimiser that is not its own; BertAdam is checked in our tests.
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return deepspeed
