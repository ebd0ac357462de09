"""DeepSpeed around a task. The only file that imports it.

The state of an engine is fp32 tensors by parameter name, whatever the ZeRO stage, the precision and
the number of ranks; a rank gives and takes the fragments of them that are its own, so that a
checkpoint fits all of them.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lxmert_dist.config import RunConfig, deepspeed_config
from lxmert_dist.errors import ConfigError, NonFiniteLossError
from lxmert_dist.schema import LossReport, MicroBatch
from lxmert_dist.train.optimizer import build_optimizer
from lxmert_dist.train.snapshot import Fragment
from lxmert_dist.train.world import World

MOMENTS = ("exp_avg", "exp_avg_sq")
PARTS = ("weights", *MOMENTS)
"""The parts of an engine's state, each one tensor per parameter."""
_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter")


class Engine:
    """A task under DeepSpeed ZeRO."""

    def __init__(self, task: nn.Module, config: RunConfig, world: World) -> None:
        """Wrap ``task``; the process group exists already.

        Raises:
            ConfigError: batch sizes, lanes and ranks do not divide, or the device cannot compute in
                this precision.
        """
        settings = deepspeed_config(config, world_size=world.size)
        deepspeed = _import_deepspeed(world)
        _check_precision(config.train.precision, world)
        self.accumulation = int(settings["gradient_accumulation_steps"])
        self._stage = int(settings["zero_optimization"]["stage"])
        self._world = world
        task.to(world.device)
        self._client = build_optimizer(
            config.optimizer, [p for p in task.parameters() if p.requires_grad]
        )
        self._engine, self._optimizer, *_ = deepspeed.initialize(
            model=task, optimizer=self._client, config=settings, dist_init_required=False
        )
        self._clip_norm = config.optimizer.clip_norm
        self._plain = self._optimizer is self._client
        if self._plain:
            self._go_plain()
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
        """After the last micro-batch: clip, update; returns the gradient norm before clipping.

        Where gradients overflowed nothing changes but the loss scale: see :attr:`applied`.

        Raises:
            NonFiniteLossError: they overflow at the smallest loss scale.
        """
        norm = self._clip() if self._plain else None
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        try:
            self._engine.step()
        except Exception as error:  # DeepSpeed raises no other
            if "loss scale already at minimum" not in str(error):
                raise
            raise NonFiniteLossError(
                "the gradients overflow at the smallest loss scale; the weights were not changed. "
                "Lower optimizer.learning_rate, or use train.precision=bf16"
            ) from error
        return float(self._engine.get_global_grad_norm()) if norm is None else norm

    @property
    def applied(self) -> bool:
        """Whether the last step moved the weights."""
        return bool(self._engine.was_step_applied())

    @property
    def loss_scaler(self) -> dict[str, float]:
        """fp16: where the dynamic loss scale is; empty in other precisions."""
        scaler = self._scaler()
        return {} if scaler is None else {name: float(getattr(scaler, name)) for name in _SCALER}

    def set_loss_scaler(self, state: Mapping[str, float]) -> None:
        """Go on with the loss scale of a checkpoint; one of another precision has none."""
        scaler = self._scaler()
        if scaler is not None:
            for name, value in state.items():
                setattr(scaler, name, type(getattr(scaler, name))(value))

    def _scaler(self) -> Any:
        if not self._engine.fp16_enabled():
            return None
        return self._optimizer.loss_scaler

    def train(self) -> None:
        """Dropout on."""
        self._engine.train()

    def eval(self) -> None:
        """Dropout off."""
        self._engine.eval()

    def shapes(self, part: str) -> dict[str, torch.Size]:
        """Of the tensors of one of ``PARTS``, by parameter name."""
        return {
            name: getattr(parameter, "ds_shape", parameter.shape)
            for name, parameter in self._engine.module.named_parameters()
            if parameter.requires_grad or part == "weights"
        }

    def fragments(self, part: str) -> Iterator[Fragment]:
        """What this rank has to give of one of ``PARTS``; over all ranks, everything once.

        All ranks must walk through it together: ZeRO-3 gathers parameters that are not trained.
        """
        masters = self._masters()
        for name, parameter in self._engine.module.named_parameters():
            if parameter.requires_grad:
                own = self._own(name, parameter, part, masters)
                if own is not None and (self._stage or self._world.is_main):
                    yield own
            elif part == "weights":
                whole = self._frozen(parameter).detach().view(-1)
                if self._world.is_main:
                    yield Fragment(name, 0, whole)

    def set_steps_done(self, steps: int) -> None:
        """Tell an optimiser that corrects its bias how many steps its moments have seen."""
        for state in self._client.state.values():
            if "step" in state:
                state["step"].fill_(float(steps))

    @torch.no_grad()
    def load(self, part: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Set a part of the state.

        Weights set here are the optimiser's masters; what the model computes with it takes from
        the task when it is built, so ``load_weights`` comes before.

        Args:
            part: one of ``PARTS``.
            tensors: name and whole tensor of each parameter, in the shapes of :meth:`shapes`.
        """
        masters, parameters = self._masters(), dict(self._engine.module.named_parameters())
        for name, whole in tensors:
            if parameters[name].requires_grad:
                own = self._own(name, parameters[name], part, masters)
                if own is not None:
                    own.tensor.copy_(whole.view(-1)[own.start :][: own.tensor.numel()])

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

    def _go_plain(self) -> None:
        """At stage 0 in fp32, where the gradients are whole: clip ourselves, in :meth:`step`.

        DeepSpeed reports no norm there, which would be a second pass over them; and it reduces over
        a single rank, by two copies of them.
        """
        self._engine.clip_fp32_gradients = lambda: None
        self._engine.enable_backward_allreduce = self._world.size > 1

    def _clip(self) -> float:
        """What DeepSpeed leaves to us; returns the norm before."""
        parameters = [p for p in self._engine.module.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if 0 < self._clip_norm < norm:
            nn.utils.clip_grads_with_norm_(parameters, self._clip_norm, norm)
        return float(norm)

    def _own(
        self, name: str, parameter: nn.Parameter, part: str, masters: Mapping[nn.Parameter, Tensor]
    ) -> Fragment | None:
        """The fragment of a trained parameter that this rank moves, where the optimiser has it."""
        key = None if part == "weights" else part
        match self._stage:
            case 0:
                owner = masters[parameter]
                whole = owner if key is None else self._client.state[owner][key]
                return Fragment(name, 0, whole.detach().view(-1))
            case 3:
                held, _ = self._optimizer._get_fp32_opt_state_partition(parameter, False, key)
                start = held.numel() * self._world.rank
                length = min(held.numel(), parameter.ds_numel - start)  # type: ignore[attr-defined]
                return Fragment(name, start, held.detach()[:length]) if length > 0 else None
            case _:
                mapping = parameter._hp_mapping  # type: ignore[attr-defined]
                if mapping is None:
                    return None
                held = mapping.get_hp_fragment(key).detach().view(-1)
                return Fragment(name, mapping.lp_fragment_address.start, held)

    def _frozen(self, parameter: nn.Parameter) -> Tensor:
        """A parameter that is not trained, whole on this rank."""
        if not hasattr(parameter, "ds_id"):
            return parameter
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([parameter]):
            return parameter.detach().clone()

    def _masters(self) -> dict[nn.Parameter, Tensor]:
        """At stage 0, what the optimiser moves for each parameter: itself, or its fp32 master."""
        if self._stage:
            return {}
        if self._plain:
            return {p: p for p in self._engine.module.parameters() if p.requires_grad}
        groups = zip(self._optimizer.fp16_groups, self._optimizer.fp32_groups, strict=True)
        return {low: high for lows, highs in groups for low, high in zip(lows, highs, strict=True)}


@torch.no_grad()
def load_weights(task: nn.Module, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Give a task the weights of a checkpoint, before an engine is built around it."""
    own = task.state_dict()
    for name, tensor in weights:
        own[name].copy_(tensor)


def _check_precision(precision: str, world: World) -> None:
    """Refuse what DeepSpeed would refuse later, in its words.

    Raises:
        ConfigError: see above.
    """
    from deepspeed.accelerator import get_accelerator

    if precision == "fp16" and not get_accelerator().is_fp16_supported():
        raise ConfigError(
            f"train.precision=fp16 cannot be computed on this {world.device.type}; use bf16 or fp32"
        )


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
