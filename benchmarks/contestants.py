"""The two models of ``bench_model.py``, each with everything that a step of it needs."""

import argparse
from dataclasses import asdict

import torch
from torch import Tensor, nn
from transformers import LxmertConfig, LxmertForPreTraining, LxmertForQuestionAnswering

from lxmert_dist.config import ModelConfig, ObjectivesConfig, OptimizerConfig
from lxmert_dist.interop.hugging_face import ALL_HEADS, config_of
from lxmert_dist.interop.layouts import recognise
from lxmert_dist.interop.names import to_ours
from lxmert_dist.interop.reference import reference_inputs, reference_labels
from lxmert_dist.schema import DataSpec, MicroBatch
from lxmert_dist.tasks import AnsweringTask, PretrainingTask
from lxmert_dist.tasks.answering import single_answers
from lxmert_dist.tasks.weights import Description
from lxmert_dist.train.optimizer import build_optimizer
from model_batch import PUBLISHED, VQA


class Contestant:
    """A model, its loss and its optimiser; the same plain loop for both."""

    def __init__(self, module: nn.Module, settings: argparse.Namespace) -> None:
        self.module = module.to(settings.device).train()
        self.device = torch.device(settings.device)
        self.masters: list[Tensor] = []
        self.params = [p for p in module.parameters() if p.requires_grad]

    def loss(self, batch: MicroBatch) -> Tensor:
        """The total of the weighted means."""
        raise NotImplementedError

    def clip_and_update(self) -> None:
        """The rest of a step, at a fixed learning rate."""
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def step(self, batch: MicroBatch) -> None:
        """A whole step."""
        self.loss(batch).backward()
        self.clip_and_update()

    def wait(self) -> None:
        """Until the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def state_bytes(self) -> int:
        """Weights, masters and moments."""
        moments = (t for s in self.optimizer.state.values() for t in s.values())
        return sum(t.nbytes for t in (*self.params, *self.masters, *moments))


class Peer(Contestant):
    """transformers' LXMERT, in bf16 under autocast."""

    def __init__(self, config: LxmertConfig, settings: argparse.Namespace) -> None:
        pretrains = settings.task == "pretraining"
        model = (LxmertForPreTraining if pretrains else LxmertForQuestionAnswering)(config)
        super().__init__(model, settings)
        self._labels = reference_labels if pretrains else _answers
        self._forward = torch.compile(model) if settings.compile else model
        self._autocast = settings.precision == "bf16"
        self.optimizer = _optimizer(self.params)
        self._arguments: dict[int, dict] = {}

    def loss(self, batch: MicroBatch) -> Tensor:
        """Their own total."""
        if id(batch) not in self._arguments:
            self._arguments = {id(batch): {**reference_inputs(batch.inputs), **self._labels(batch)}}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            return self._forward(**self._arguments[id(batch)]).loss


class Ours(Contestant):
    """Our task; in bf16 with bf16 weights and fp32 masters, as DeepSpeed has them."""

    def __init__(self, config: ModelConfig, spec: DataSpec, settings: argparse.Namespace) -> None:
        task: PretrainingTask | AnsweringTask
        if settings.task == "pretraining":
            # 6.67 as in transformers, so that the losses can be compared
            names = ("object_label_weight", "attribute_label_weight", "roi_feature_weight")
            task = PretrainingTask(config, ObjectivesConfig(**dict.fromkeys(names, 6.67)), spec)
        else:  # of one right answer, since the peer takes no others
            task = AnsweringTask(config, spec, spec.num_answers, "cross_entropy")
        if settings.checkpointing:
            task.model.recompute_activations()
        if settings.precision == "bf16":
            task.bfloat16()
        super().__init__(task, settings)
        self._config = config
        self._forward = torch.compile(task) if settings.compile else task
        self._weights = task.loss_weights_at(0)
        if settings.precision == "bf16":
            self.masters = [p.detach().float() for p in self.params]
            both = list(zip(self.masters, self.params, strict=True))
            self._groups = [both[at : at + 16] for at in range(0, len(both), 16)]
        self.optimizer = _optimizer(self.masters or self.params)

    def take_weights(self, peer: Peer) -> None:
        """Start from the same weights."""
        released = recognise(peer.module.state_dict(), "the peer")
        self.module.load_state_dict(to_ours(released.tensors, self._config))
        for master, param in zip(self.masters, self.params, strict=False):
            master.copy_(param.detach())

    def loss(self, batch: MicroBatch) -> Tensor:
        """Sums over counts, weighted."""
        report = self._forward(batch)
        terms = [
            self._weights[name] * loss / max(batch.counts[name], 1.0)
            for name, loss in report.losses.items()
        ]
        return torch.stack(terms).sum()

    @torch.no_grad()
    def clip_and_update(self) -> None:
        """As above; the masters move, and the weights follow."""
        if not self.masters:
            super().clip_and_update()
            return
        norms = torch._foreach_norm([p.grad for p in self.params], 2.0, torch.float32)
        scale = (1.0 / torch.linalg.vector_norm(torch.stack(norms))).clamp(max=1.0)
        for group in self._groups:
            # A few at a time: the gradients in float32 never stand side by side.
            for master, param in group:
                master.grad = param.grad.float().mul_(scale)
                param.grad = None
            self.optimizer.step()
            self.optimizer.zero_grad()
            torch._foreach_copy_([p for _, p in group], [m for m, _ in group])


def _answers(batch: MicroBatch) -> dict[str, Tensor]:
    """The peer's label of each question."""
    return {"labels": single_answers(batch.targets.scores)}


def _optimizer(params: list[Tensor]) -> torch.optim.Optimizer:
    """The fused AdamW of torch, at a fixed rate."""
    optimizer = build_optimizer(OptimizerConfig(name="adamw"), params)
    for group in optimizer.param_groups:
        group["lr"] = 1e-5
    return optimizer


def build(name: str, settings: argparse.Namespace) -> Contestant:
    """A contestant of the published size, or a tiny one with ``settings.smoke``."""
    torch.manual_seed(0)
    config = ModelConfig(hidden_dropout=settings.dropout, attention_dropout=settings.dropout)
    if settings.smoke:
        small = {"num_language_layers": 1, "num_relationship_layers": 1, "num_cross_layers": 1}
        config = config.model_copy(update={**small, "hidden_size": 48, "intermediate_size": 96})
    spec = PUBLISHED if settings.task == "pretraining" else VQA
    if name == "ours":
        return Ours(config, spec, settings)
    description = Description(kind="pretraining", model=config, sizes=asdict(spec))
    return Peer(config_of(description, ALL_HEADS), settings)
