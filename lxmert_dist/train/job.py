"""From a configuration and a store to everything that one rank trains with."""

from bisect import bisect_right
from dataclasses import dataclass, replace

import numpy as np
import torch

from lxmert_dist import keyed
from lxmert_dist.config import (
    FinetuneConfig,
    ModelConfig,
    ObjectivesConfig,
    PretrainConfig,
    RunConfig,
)
from lxmert_dist.errors import CheckpointError, ConfigError
from lxmert_dist.keyed import Purpose
from lxmert_dist.schema import Collate
from lxmert_dist.store import ReadSettings, Split, Store, open_store
from lxmert_dist.store.tokenizer import tokenizer_files
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
from lxmert_dist.stream.passes import Pass, pairs_by_source, pairs_of_pass, plan_passes
from lxmert_dist.stream.plan import PairIndex, PlanSettings
from lxmert_dist.stream.stays import check_memory, most_shards_needed
from lxmert_dist.tasks import (
    AnsweringTask,
    PretrainingTask,
    TransferReport,
    answering_collate,
    load_pretrained,
    pretraining_collate,
)
from lxmert_dist.tasks.weights import Description, vocabulary_digest
from lxmert_dist.train.checkpoint import find_weights
from lxmert_dist.train.world import World

Task = PretrainingTask | AnsweringTask

GIB = 1 << 30


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
        settings = replace(_loader_settings(config, world), memory_bytes=0)
        return Loader(self.split, steps, settings)


@dataclass(frozen=True)
class Job:
    """What a run trains, on what, and how it is judged."""

    config: RunConfig
    store: Store
    task: Task
    train_split: Split
    index: PairIndex
    """Every pair that the run may visit."""
    passes: tuple[Pass, ...]
    collate: Collate
    validation: Evaluation
    final: tuple[Evaluation, ...]
    """Run once, after the last step."""
    start: TransferReport | None = None
    """What was taken over from earlier weights; None from scratch."""

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.passes[-1].end

    def position(self, step: int) -> Position:
        """Where optimiser step ``step`` is; behind the last one, where a next pass would begin."""
        number = bisect_right(self.passes, step, key=lambda one: one.end)
        if number == len(self.passes):
            return Position(number, 0)
        return Position(number, step - self.passes[number].first_step)

    def check_memory(self, world: World, step: int) -> None:
        """Refuse a ``data.memory_gib`` that does not do for the rest of the run, from ``step`` on.

        Where there is one, all passes are planned: seconds.

        Raises:
            ConfigError: says how much is enough.
        """
        settings = _loader_settings(self.config, world)
        if not settings.memory_bytes:
            return
        needs = [
            most_shards_needed(
                pairs_of_pass(self.train_split, self.index, one, self.config.seed),
                plan_settings(self.config),
                seed=self.config.seed,
                epochs=range(one.number, one.number + 1),
                world_size=world.size,
                read_ahead_steps=settings.read_ahead_steps,
            )
            for one in self.passes[self.position(step).epoch :]
        ]
        needed = max(needs, default=0)
        check_memory(settings.memory_bytes, self.train_split.shard_bytes, needed)

    def loader(self, world: World, start: Position) -> Loader:
        """This rank's share of every step from ``start`` on."""
        settings = _loader_settings(self.config, world)
        steps = TrainingSteps(
            self.train_split,
            self.index,
            plan_settings(self.config),
            settings,
            self.collate,
            self.config.seed,
            self.passes,
            Rank(world.rank, world.size),
            start,
            _node_lanes(self.config, world),
        )
        return Loader(self.train_split, steps, settings)


def build(config: RunConfig) -> Job:
    """Open the store and build the task with fresh weights, or those that ``init`` names.

    Raises:
        StoreError, CheckpointError, ConfigError: something does not fit; nothing was trained yet.
    """
    store = open_store(config.data.store, _read_settings(config))
    _ = store.tokenizer  # one without sentences is refused before its splits are looked for
    torch.manual_seed(config.seed)
    match config:
        case PretrainConfig():
            job = _pretraining(config, store)
        case FinetuneConfig():
            job = _answering(config, store)
        case _:
            raise TypeError(f"nothing is trained with a {type(config).__name__}")
    if config.train.activation_checkpointing:
        job.task.model.recompute_activations()
    return job


def _pretraining(config: PretrainConfig, store: Store) -> Job:
    if store.spec.images_per_pair > 1:
        raise ConfigError(
            f"{store.uri} has sentences about {store.spec.images_per_pair} images each, and "
            "pretraining takes one; fine-tune on it (launch/finetune.py)"
        )
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
            multiple=config.train.shape_multiple,
        )

    def evaluation(name: str, sources: tuple[str, ...], objectives: ObjectivesConfig) -> Evaluation:
        every = index_pairs(valid, sources)
        inputs = collate(valid, every.pair_ids, 0, objectives)
        return Evaluation(name, valid, _limited(every, config), inputs)

    # What a source allows the matching and answering tasks, it allows them on whole inputs.
    unmasked = config.objectives.model_copy(
        update={"token_mask_rate": 0.0, "object_mask_rate": 0.0}
    )

    index, passes = visited(config, train)
    names = config.data.sources or tuple(valid.sentences.sources)
    task = PretrainingTask(config.model, config.objectives, store.spec)
    return Job(
        config=config,
        store=store,
        task=task,
        train_split=train,
        index=index,
        passes=passes,
        collate=collate(train, index.pair_ids, None),
        validation=evaluation("valid", config.data.sources, config.objectives),
        final=tuple(evaluation(f"unmasked_{name}", (name,), unmasked) for name in names),
        start=start_from(config.init, task, config.model, store),
    )


def _answering(config: FinetuneConfig, store: Store) -> Job:
    data = config.data
    train = store.split(data.train_split)
    task = AnsweringTask(config.model, store.spec, store.spec.num_answers, config.loss)

    def collate(split: Split) -> Collate:
        return answering_collate(
            split.sentences,
            store.spec,
            max_tokens=data.max_tokens,
            loss=config.loss,
            multiple=config.train.shape_multiple,
        )

    def evaluation(name: str) -> Evaluation:
        split = store.split(name)
        index = index_pairs(split, data.sources)
        if not split.sentences.answers(index.pair_ids)[0][-1]:
            raise ConfigError(
                f"no question of split {name!r} has an answer, so there is nothing to score; set "
                'data.validation_split and test_split to splits that have, or test_split="" for '
                "none, and answer the questions with launch/predict.py"
            )
        return Evaluation(name, split, index, collate(split))

    index, passes = visited(config, train)
    validation = evaluation(data.validation_split)
    return Job(
        config=config,
        store=store,
        task=task,
        train_split=train,
        index=index,
        passes=passes,
        collate=collate(train),
        validation=replace(validation, index=_limited(validation.index, config)),
        final=(evaluation(config.test_split),) if config.test_split else (),
        start=start_from(config.init, task, config.model, store),
    )


def start_from(init: str, task: Task, model: ModelConfig, store: Store) -> TransferReport | None:
    """Give a fresh task the weights that ``init`` names: a checkpoint, a run or an export.

    Returns:
        What was taken over; None for ``scratch``.

    Raises:
        CheckpointError: there are none, or they belong to other word pieces, features or models.
    """
    if init == "scratch":
        return None
    source = find_weights(init)
    description = source.description
    check_inputs(source.uri, description, store)
    _check_semantics(source.uri, description.model, model)
    report = load_pretrained(
        task,
        source.tensors,
        description.answers,
        store.answers if store.spec.images_per_pair == 1 else (),
        partial=description.partial,
        leave=[*_other_classes(description, store), *_other_answers(description, store)],
    )
    return replace(report, run_id=source.run_id)


def check_inputs(uri: str, source: Description, store: Store) -> None:
    """Whether a store has the word pieces and features that weights know.

    Raises:
        CheckpointError: it has others.
    """
    advice = "use the store of that run, or one with the same tokenizer and detector"
    for name in ("vocab_size", "feature_dim"):
        there, here = source.sizes.get(name), getattr(store.spec, name)
        if there not in (here, None):
            raise CheckpointError(
                f"{uri} was trained with {name}={there}, but the store has {here}; {advice}"
            )
    if source.tokenizer_digest == store.tokenizer.digest:
        return
    known = source.tokenizer_digest
    if source.vocabulary_digest:
        here = vocabulary_digest(tokenizer_files(store.tokenizer_dir()))
        known = "" if here == source.vocabulary_digest else source.vocabulary_digest
    if known:
        raise CheckpointError(
            f"{uri} was trained on other word pieces than those of {store.uri}; {advice}"
        )


def _check_semantics(uri: str, source: ModelConfig, model: ModelConfig) -> None:
    """What no shape shows: with other heads the same weights are another function."""
    for name in ("num_heads", "token_type"):
        there, here = getattr(source, name), getattr(model, name)
        if source.hidden_size == model.hidden_size and there != here:
            raise CheckpointError(
                f"{uri} was trained with model.{name}={there}, this run has {here}; "
                f"set model.{name}={there}"
            )


def _other_classes(source: Description, store: Store) -> list[str]:
    """Decoders of the visual head whose classes are known to be others than the store's."""
    pairs = {
        "object_label": (source.object_classes, store.object_classes),
        "attribute_label": (source.attribute_classes, store.attribute_classes),
    }
    return [
        f"visual_head.{name}"
        for name, (there, here) in pairs.items()
        if there and list(there) != here
    ]


def _other_answers(description: Description, store: Store) -> list[str]:
    """The head over two images, if its answers are known to be others than the store's."""
    known = description.answers
    return ["pair_head"] if known and list(known) != store.answers else []


def plan_settings(config: RunConfig) -> PlanSettings:
    """How a pass is cut."""
    data, size = config.data, config.train.global_batch_size
    return PlanSettings(data.lanes, data.window_shards, size, data.pairs_per_image)


def visited(config: RunConfig, split: Split) -> tuple[PairIndex, tuple[Pass, ...]]:
    """Every pair that a run may visit, and its passes.

    Raises:
        ConfigError: a source is none of the store's, or a pass has too few pairs.
    """
    data, train = config.data, config.train
    index = index_pairs(split, data.sources)
    amounts = pairs_by_source(split, data.sources)
    epochs = 0 if data.curriculum else train.epochs
    passes = plan_passes(
        amounts, data.stages, plan_settings(config), epochs=epochs, max_steps=train.max_steps
    )
    on = tuple(n for n in amounts if any(stage.get(n, 1.0) for _, stage in data.stages))
    return index_pairs(split, on) if len(on) < len(amounts) else index, passes


def _limited(index: PairIndex, config: RunConfig) -> PairIndex:
    def choose(n: int) -> np.ndarray:
        return keyed.permutation(n, config.seed, 0, Purpose.SPLIT)

    return limit_pairs(index, config.train.validation_pairs, choose)


def _loader_settings(config: RunConfig, world: World) -> LoaderSettings:
    share = config.train.global_batch_size // world.size
    return LoaderSettings(
        min(config.train.micro_batch_size, share),
        config.data.prefetch_steps,
        config.data.read_ahead_steps,
        config.data.reader_threads,
        int(config.data.memory_gib * GIB),
    )


def _read_settings(config: RunConfig) -> ReadSettings:
    data = config.data
    return ReadSettings(data.backend, data.patience_s, data.cache, int(data.cache_gib * GIB))


def _node_lanes(config: RunConfig, world: World) -> range | None:
    """The lanes of all ranks of this node, which are neighbours; None without a cache."""
    if not config.data.cache:
        return None
    first = world.rank - world.local_rank
    share = config.data.lanes // world.size
    return range(first * share, (first + world.local_size) * share)
