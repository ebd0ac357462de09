"""From a configuration and a store to everything that one rank trains with."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lxmert_dist import keyed
from lxmert_dist.config import FinetuneConfig, ObjectivesConfig, PretrainConfig, RunConfig
from lxmert_dist.errors import CheckpointError
from lxmert_dist.keyed import Purpose
from lxmert_dist.schema import Collate
from lxmert_dist.store import Split, Store, open_store
from lxmert_dist.stream.loader import (
    EvaluationSteps,
    Loader,
    LoaderSettings,
    Position,
    Rank,
    TrainingSteps,
    index_pairs,
    limit_pairs,
)
from lxmert_dist.stream.plan import PairIndex, PlanSettings
from lxmert_dist.tasks import (
    AnsweringTask,
    PretrainingTask,
    answering_collate,
    load_pretrained,
    pretraining_collate,
)
from lxmert_dist.train import checkpoint
from lxmert_dist.train.world import World

Task = PretrainingTask | AnsweringTask


@dataclass(frozen=True)
class Evaluation:
    """Some pairs of a split, with inputs that are the same every time."""

    name: str
    split: Split
    index: PairIndex
    collate: Collate

    def loader(self, config: RunConfig, world: World) -> Loader:
        """One pass over all pairs, on this rank's share of them."""
        steps = EvaluationSteps(
            self.split,
            self.index,
            config.train.micro_batch_size,
            self.collate,
            Rank(world.rank, world.size),
        )
        return Loader(self.split, steps, _loader_settings(config, world))


@dataclass(frozen=True)
class Job:
    """What a run trains, on what, and how it is judged."""

    config: RunConfig
    store: Store
    task: Task
    train_split: Split
    index: PairIndex
    collate: Collate
    validation: Evaluation
    final: tuple[Evaluation, ...]
    """Run once, after the last step."""

    @property
    def plan(self) -> PlanSettings:
        """How an epoch is cut."""
        data = self.config.data
        return PlanSettings(data.lanes, data.window_shards, self.config.train.global_batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch."""
        return self.plan.steps_per_epoch(len(self.index))

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        every = self.steps_per_epoch * self.config.train.epochs
        return min(every, self.config.train.max_steps or every)

    def loader(self, world: World, start: Position) -> Loader:
        """This rank's share of every step from ``start`` on."""
        settings = _loader_settings(self.config, world)
        steps = TrainingSteps(
            self.train_split,
            self.index,
            self.plan,
            settings,
            self.collate,
            self.config.seed,
            self.config.train.epochs,
            Rank(world.rank, world.size),
            start,
        )
        return Loader(self.train_split, steps, settings)


def build(config: RunConfig) -> Job:
    """Open the store and build the task with fresh (or, to fine-tune, pretrained) weights.

    Raises:
        StoreError, CheckpointError, ConfigError: something does not fit; nothing was trained yet.
    """
    store = open_store(config.data.store)
    torch.manual_seed(config.seed)
    match config:
        case PretrainConfig():
            return _pretraining(config, store)
        case FinetuneConfig():
            return _answering(config, store)
    raise TypeError(f"nothing is trained with a {type(config).__name__}")


def _pretraining(config: PretrainConfig, store: Store) -> Job:
    train, valid = store.split(config.data.train_split), store.split(config.data.validation_split)

    def collate(
        split: Split,
        candidates: np.ndarray,
        fixed_epoch: int | None,
        objectives: ObjectivesConfig = config.objectives,
    ) -> Collate:
        return pretraining_collate(
            split.sentences,
            store.spec,
            objectives,
            seed=config.seed,
            max_tokens=config.data.max_tokens,
            candidates=candidates,
            fixed_epoch=fixed_epoch,
        )

    def evaluation(name: str, sources: tuple[str, ...], objectives: ObjectivesConfig) -> Evaluation:
        every = index_pairs(valid, sources)
        inputs = collate(valid, every.pair_ids, 0, objectives)
        return Evaluation(name, valid, _limited(every, config), inputs)

    # What a source allows the matching and answering tasks, it allows them on whole inputs.
    unmasked = config.objectives.model_copy(
        update={"token_mask_rate": 0.0, "object_mask_rate": 0.0}
    )

    index = index_pairs(train, config.data.sources)
    names = config.data.sources or tuple(valid.sentences.sources)
    return Job(
        config=config,
        store=store,
        task=PretrainingTask(config.model, config.objectives, store.spec),
        train_split=train,
        index=index,
        collate=collate(train, index.pair_ids, None),
        validation=evaluation("valid", config.data.sources, config.objectives),
        final=tuple(evaluation(f"unmasked_{name}", (name,), unmasked) for name in names),
    )


def _answering(config: FinetuneConfig, store: Store) -> Job:
    data = config.data
    train = store.split(data.train_split)
    task = AnsweringTask(config.model, store.spec, store.spec.num_answers)
    if config.init != "scratch":
        weights, answers = pretrained(config.init, store)
        load_pretrained(task, weights, answers, store.answers)

    def collate(split: Split) -> Collate:
        return answering_collate(split.sentences, store.spec, max_tokens=data.max_tokens)

    def evaluation(name: str) -> Evaluation:
        split = store.split(name)
        return Evaluation(name, split, index_pairs(split, data.sources), collate(split))

    validation = evaluation(data.validation_split)
    return Job(
        config=config,
        store=store,
        task=task,
        train_split=train,
        index=index_pairs(train, data.sources),
        collate=collate(train),
        validation=replace(validation, index=_limited(validation.index, config)),
        final=(evaluation(config.test_split),),
    )


def pretrained(uri: str, store: Store) -> tuple[Mapping[str, Tensor], list[str]]:
    """Weights by name and the answer table of a pretraining run.

    Raises:
        CheckpointError: there is none, or its vocabulary or features are not those of the store.
    """
    found = checkpoint.find(uri)
    state = found.state()
    advice = "use the store of that run, or one with the same tokenizer and detector"
    for name in ("vocab_size", "feature_dim"):
        there, here = state.data_spec.get(name), getattr(store.spec, name)
        if there != here:
            raise CheckpointError(
                f"{found.uri} was trained with {name}={there}, but the store has {here}; {advice}"
            )
    if state.tokenizer_digest != store.manifest.tokenizer.digest:
        raise CheckpointError(
            f"{found.uri} was trained on other word pieces than those of {store.uri}; {advice}"
        )
    return found.tensors("weights"), state.answers


def _limited(index: PairIndex, config: RunConfig) -> PairIndex:
    def choose(n: int) -> np.ndarray:
        return keyed.permutation(n, config.seed, 0, Purpose.SPLIT)

    return limit_pairs(index, config.train.validation_pairs, choose)


def _loader_settings(config: RunConfig, world: World) -> LoaderSettings:
    share = config.train.global_batch_size // world.size
    return LoaderSettings(
        min(config.train.micro_batch_size, share),
        config.data.prefetch_steps,
        config.data.reader_threads,
    )
