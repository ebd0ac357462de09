"""The typed sections of a run's configuration. Every field says its unit and its range."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Names = Annotated[tuple[str, ...], Strict(False)]  # an array of TOML is a list
Stage = Annotated[tuple[Annotated[int, Field(ge=0)], NonNegative], Strict(False)]
Stages = Annotated[tuple[Stage, ...], Strict(False)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
Lesson = Annotated[tuple[Annotated[int, Field(ge=0)], dict[str, Fraction]], Strict(False)]
AnswerLoss = Literal["bce", "cross_entropy"]
Lessons = Annotated[tuple[Lesson, ...], Strict(False)]


class Section(BaseModel):
    """Frozen, strict, and closed: an unknown key is an error, and so is an infinite number."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class DataConfig(Section):
    """Which pairs a run reads, and in which order."""

    store: str
    """Where the feature store is: a path or any fsspec URI (``s3://bucket/prefix``)."""
    train_split: str = "train"
    validation_split: str = "valid"
    sources: Names = ()
    """Sentence sources to read; empty means all of them."""
    source_weights: dict[str, Share] = Field(default_factory=dict)
    """The share of a source's pairs, in (0, 1], that an epoch visits; 1 where none is given. The
    next epoch goes on where this one stopped: with ``vqa = 0.5`` every pair of vqa comes once in
    two epochs. To see a source more often than the others, give the others less."""
    curriculum: Lessons = ()
    """(first step, weights) pairs, steps ascending from 0: from that optimiser step on, the weights
    take the place of those in ``source_weights``, source by source; 0 turns one off. A stage begins
    a new epoch. ``[[0, {vg = 0.2, vqa = 0.0}], [20000, {}]]`` starts with a fifth of vg and without
    vqa, and goes on with everything. ``train.max_steps`` then says how long the run is, and
    ``train.epochs`` nothing."""
    max_tokens: Annotated[int, Field(ge=3, le=512)] = 20
    """Longest sentence, [CLS] and [SEP] included; the rest is cut."""
    lanes: Count = 8
    """Parallel cuts of the epoch; ranks must divide lanes, and lanes the global batch."""
    window_shards: Count = 8
    """Over how many shards of a lane the sentences of one image are spread."""
    pairs_per_image: Count = 1
    """How many pairs of a step share one image and its object mask; 1 leaves pairs ungrouped. It
    should divide the pairs of a lane in a step (``train.global_batch_size / data.lanes``); where it
    does not, many groups are cut in two."""
    prefetch_steps: Count = 4
    """How many steps are collated ahead."""
    read_ahead_steps: Count = 64
    """How many steps before its first use an object of features is asked for. At full size a rank
    with 64 lanes begins one in 13 steps, so that 64 steps ahead are 5 objects more in memory."""
    reader_threads: Count = 2
    """Concurrent reads from the store, per rank."""
    backend: Literal["fsspec", "obstore"] = "fsspec"
    """What reads features from S3: obstore (``pip install 'lxmert_dist[obstore]'``) takes less CPU
    time; whatever is not on S3 is read by fsspec."""
    patience_s: Positive = 60.0
    """Seconds for which an object that cannot be read, or a checkpoint that cannot be written, is
    tried again, before the run stops."""
    memory_gib: NonNegative = 0.0
    """Bound, per rank, of the features that training holds in memory; 0 is as much as the plan
    needs. With a bound, less is read ahead; one that is too small is refused at the start."""
    cache: str = ""
    """Local directory in which all ranks and jobs of a node keep the features that they fetched,
    each once; empty is none. A store on a local disk is not cached."""
    cache_gib: NonNegative = 0.0
    """Bound of all files in that directory; 0 is what the disk has free. What is needed last makes
    room for what is needed sooner."""

    @model_validator(mode="after")
    def _lessons_ascend(self) -> "DataConfig":
        steps = [step for step, _ in self.curriculum]
        if steps[:1] not in ([], [0]) or any(b <= a for a, b in pairwise(steps)):
            raise ValueError(f"the steps of curriculum must ascend from 0, and are {steps}")
        return self

    @property
    def stages(self) -> tuple[tuple[int, dict[str, float]], ...]:
        """First step and weights of each stage of the run; one, where there is no curriculum."""
        lessons = self.curriculum or ((0, {}),)
        return tuple((first, {**self.source_weights, **weights}) for first, weights in lessons)


class ModelConfig(Section):
    """The three encoders; the defaults are the published LXMERT (spec: 9/5/5, BERT-base width)."""

    hidden_size: Count = 768
    num_heads: Count = 12
    intermediate_size: Count = 3072
    num_language_layers: Annotated[int, Field(ge=0)] = 9
    num_relationship_layers: Annotated[int, Field(ge=0)] = 5
    num_cross_layers: Count = 5
    max_positions: Annotated[int, Field(ge=3)] = 512
    token_types: Count = 2
    layer_norm_eps: Positive = 1e-12
    hidden_dropout: Fraction = 0.1
    attention_dropout: Fraction = 0.1
    initializer_range: Positive = 0.02
    trainable_padding_rows: bool = False
    """Whether row 0 of the embeddings (position of [CLS], token type 0) learns; in the released
    code it does not."""
    zero_padding_rows: bool = False
    """Whether row 0 of the word, position and type embeddings starts at zero, as in Hugging Face,
    instead of random, as released."""
    token_type: bool = True
    """Whether the embedding of token type 0 is added to every token; the paper has none. The table
    is a part of the model either way, so that weights move by name."""

    @model_validator(mode="after")
    def _heads_divide_hidden(self) -> "ModelConfig":
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"num_heads={self.num_heads} must divide hidden_size={self.hidden_size}"
            )
        return self


class ObjectivesConfig(Section):
    """The five pretraining tasks; the defaults are the released code (preset ``lxmert``).

    ``model/README.md`` has the table of who does what. A task with weight 0 is off: its head's
    decoder is not run.
    """

    mismatch_rate: Fraction = 0.5
    """Share of the pairs that are given the sentence of another image."""
    token_mask_rate: Fraction = 0.15
    """Chance of each word piece to become a target."""
    token_replace_fraction: Fraction = 0.8
    """Share of the chosen tokens that become [MASK]."""
    token_random_fraction: Fraction = 0.1
    """Share of the chosen tokens that become a random one; the rest stays as it is."""
    object_mask_rate: Fraction = 0.15
    """Chance of each object to become a target."""
    object_replace_fraction: Fraction = 0.8
    """Share of the chosen objects whose feature becomes zeros."""
    object_random_fraction: Fraction = 0.1
    """Share of the chosen objects that get the feature of another; the rest stays as it is."""
    label_scope: Literal["all", "masked"] = "all"
    """Which objects the two label losses cover: the released code covers all, the paper masked."""
    weigh_labels_by_score: bool = True
    """Whether a label counts as much as the detector was sure of it."""
    feature_loss: Literal["smooth_l1", "l2"] = "smooth_l1"
    """Regression of RoI features: SmoothL1 (beta 1) or squared error, averaged over features."""
    visual_mean_over: Literal["all", "masked"] = "all"
    """What the three visual losses are divided by: all objects, as released with the weight
    1/0.15, or the masked ones, with which the weight 1 is as strong (given
    ``label_scope = "masked"``)."""
    masked_lm_weight: NonNegative = 1.0
    matching_weight: NonNegative = 1.0
    object_label_weight: NonNegative = 1 / 0.15
    attribute_label_weight: NonNegative = 1 / 0.15
    roi_feature_weight: NonNegative = 1 / 0.15
    image_qa_weight: NonNegative = 1.0
    image_qa_stages: Stages = ()
    """(first step, weight) pairs, steps ascending: from that optimiser step on, the weight takes
    the place of ``image_qa_weight``. ``[[0, 0.0], [335000, 2.0]]`` is the two-stage protocol."""
    loss_norm: Literal["global", "per_replica"] = "global"
    """``global``: sums over counts of all ranks and micro-batches, the same for any number of
    them. ``per_replica``: the mean of each micro-batch of each rank, then averaged, as the
    released code's DataParallel does."""

    @model_validator(mode="after")
    def _fractions_fit(self) -> "ObjectivesConfig":
        for thing in ("token", "object"):
            names = f"{thing}_replace_fraction", f"{thing}_random_fraction"
            if sum(getattr(self, name) for name in names) > 1:
                raise ValueError(f"{names[0]} + {names[1]} must be at most 1")
        return self

    @model_validator(mode="after")
    def _stages_ascend(self) -> "ObjectivesConfig":
        steps = [step for step, _ in self.image_qa_stages]
        if any(later <= earlier for earlier, later in pairwise(steps)):
            raise ValueError(f"the steps of image_qa_stages must ascend, and are {steps}")
        return self

    def image_qa_weight_at(self, step: int) -> float:
        """Weight of image question answering in optimiser step ``step`` (from 0)."""
        begun = [weight for first, weight in self.image_qa_stages if first <= step]
        return begun[-1] if begun else self.image_qa_weight


class OptimizerConfig(Section):
    """Optimiser and learning-rate schedule (linear warm-up, then linear to zero)."""

    name: Literal["bert_adam", "adamw"] = "bert_adam"
    """``bert_adam``: no bias correction, as released; ``adamw``: torch's fused AdamW."""
    learning_rate: Positive = 1e-4
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    eps: Positive = 1e-6
    weight_decay: NonNegative = 0.01
    """Decoupled: multiplied by the scheduled rate, not by the gradient's scale."""
    decay_exclude: Literal["none", "bias_and_norm"] = "none"
    """What is not decayed; the released code decays everything. ``bias_and_norm`` leaves biases
    and LayerNorm weights alone."""
    warmup_fraction: Fraction = 0.05
    clip_norm: NonNegative = 1.0
    """Global gradient norm; 0 switches clipping off."""


class TrainConfig(Section):
    """How long, how much at once, in which precision."""

    epochs: Annotated[int, Field(ge=1)] = 20
    """How often the run visits its pairs, or as much of them as ``data.source_weights`` says."""
    max_steps: Annotated[int, Field(ge=0)] = 0
    """Ends the run (and its schedule) early; 0 means all epochs. With ``data.curriculum`` it alone
    says how long the run is."""
    global_batch_size: Count = 256
    """Pairs per optimiser step over all ranks."""
    micro_batch_size: Count = 256
    """Pairs per forward of one rank; smaller than the rank's share means accumulation."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the weights and activations; the optimiser's weights and moments are fp32 in any case.
    ``fp16`` scales the loss, and skips the update of a step whose gradients overflow; stages 1 to
    3 only."""
    initial_scale_power: Annotated[int, Field(ge=0, le=32)] = 16
    """fp16: the loss scale begins at 2 to this power; an overflow halves it."""
    scale_window: Count = 1000
    """fp16: after so many steps without an overflow the loss scale is doubled."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 1
    """What the ranks share: nothing, the optimiser's state, the gradients too, the weights too. A
    single rank in fp32 that offloads nothing runs at stage 0 whatever is set."""
    offload_optimizer: bool = False
    """Keep the optimiser's weights and moments in host memory, and update there; stages 1 to 3."""
    overlap_communication: Literal["auto", "on", "off"] = "auto"
    """Whether gradients are reduced while the backward pass goes on, for the memory of a second
    bucket; ``auto`` does at stage 3 only, as DeepSpeed does."""
    reduce_bucket_size: Count = 500_000_000
    """Elements that are reduced at once; stages 1 to 3 hold a buffer of this size."""
    allgather_bucket_size: Count = 500_000_000
    """Elements of updated weights that are gathered at once; stages 1 and 2."""
    activation_checkpointing: bool = False
    """Compute the activations of each layer again in the backward pass instead of keeping them."""
    compile: bool = False
    """Compile the task with torch.compile; it pays on GPUs, once it has taken its minutes."""
    shape_multiple: Count = 1
    """Numbers of packed rows are rounded up to a multiple of this, and sentences are attended to at
    ``data.max_tokens``, so that compiled code meets few shapes; 1 leaves them as they are."""
    log_every: Count = 10
    """Steps between two lines of metrics."""
    validate_every: Annotated[int, Field(ge=0)] = 0
    """Steps between two validations; 0 means at the end of each epoch."""
    validation_pairs: Annotated[int, Field(ge=0)] = 0
    """How many pairs a validation reads; 0 means the whole split."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of torch per rank; 0 leaves torch's choice (or OMP_NUM_THREADS)."""

    @model_validator(mode="after")
    def _stage_fits(self) -> "TrainConfig":
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3")
        if self.precision == "fp16" and self.zero_stage == 0:
            raise ValueError("precision=fp16 needs zero_stage 1, 2 or 3")
        return self


class CheckpointConfig(Section):
    """When and where the state of a run is kept."""

    uri: str = ""
    """A path or fsspec URI; empty means ``checkpoints`` in the run's directory."""
    every: Annotated[int, Field(ge=0)] = 0
    """Steps between two checkpoints; 0 means at the end of each epoch. The last step is kept."""
    keep: Count = 2
    """How many of the newest are kept."""
    keep_every: Annotated[int, Field(ge=0)] = 0
    """Those whose step is a multiple of this are kept for good; 0 keeps none for good."""
    best: str = ""
    """Metric of the validation, e.g. ``valid/loss`` or ``valid/matching_accuracy``: of the
    checkpoints written right after a validation, the best by it is kept too. Empty: none."""
    best_is: Literal["lowest", "highest"] = "lowest"
    """Which value of ``best`` is the best."""
    background: bool = True
    """Whether a checkpoint is written behind the training that goes on, from a copy of the state
    in the memory of rank 0's host (12 bytes a parameter); else training waits for it."""
    grace_seconds: Positive = 25.0
    """After SIGTERM or Ctrl-C, how long the step and the last checkpoint may take; then the process
    ends without it. Schedulers, torchrun and deepspeed kill after 30 s unless told otherwise."""


class TrackingConfig(Section):
    """Where metrics go besides the run's own ``metrics.jsonl``."""

    mlflow: bool = True
    uri: str = ""
    """MLflow tracking URI; empty means ``sqlite`` in the directory above the run's."""
    experiment: str = "lxmert_dist"
    parent: str = ""
    """Id of the MLflow run below which this one stands in the UI, such as that of an ablation
    study; empty: of the run whose weights it starts from."""
    curves: bool = True
    """Whether curves of the whole run are drawn at its end, into ``plots/`` (matplotlib)."""


class ClusterConfig(Section):
    """Ray Train workers; read by the ``ray`` launcher only, but for ``timeout_seconds``."""

    workers: Count = 2
    """How many, each one rank; elastic runs leave it aside."""
    min_workers: Annotated[int, Field(ge=0)] = 0
    """With fewer, an elastic run waits; 0, as ``max_workers`` then is too: a fixed number."""
    max_workers: Annotated[int, Field(ge=0)] = 0
    """An elastic run goes on with as many workers as the nodes have room for, up to this, and
    grows again when nodes come back. Of a number that does not divide ``data.lanes`` the rest is
    spare, and computes nothing."""
    resize_interval_s: Positive = 60.0
    """How often an elastic run looks whether it can grow, which starts all workers again from the
    last checkpoint."""
    cpus_per_worker: Positive = 1.0
    gpus_per_worker: NonNegative = 0.0
    """1 on GPU nodes. Several are of no use to one rank."""
    resources_per_worker: dict[str, Positive] = Field(default_factory=dict)
    """What else a worker takes of its node, by the names of ``ray start --resources``; ``memory``
    is in bytes. For example ``{ fast_disk = 1.0 }``."""
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """Ray's placement strategy: on few nodes or on many, strict: on one node, or one a node."""
    storage: str = ""
    """Shared path or URI for Ray's own state; empty means ``ray`` in the run's directory."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """How often the workers start again after one was lost or a node was; an error that the user
    can mend is not tried again."""
    wait_seconds: Count = 300
    """How long a run waits for nodes, at its start and after a loss, before it ends with an error
    that names what is missing. Where there is room, workers may take two minutes more to start."""
    timeout_seconds: Count = 600
    """Limit of one collective, and of standing still, under any launcher; keep it above
    ``data.patience_s``."""
    allow_open: bool = False
    """Run on a cluster that takes code from anyone who reaches it, with a warning instead of an
    error: for networks where a firewall keeps strangers out. Better, have Ray ask for a token."""

    @model_validator(mode="after")
    def _elastic_fits(self) -> "ClusterConfig":
        if not self.elastic:
            if self.min_workers:
                raise ValueError(f"min_workers={self.min_workers} needs max_workers")
            return self
        if not 1 <= self.min_workers <= self.max_workers:
            raise ValueError(
                f"min_workers={self.min_workers} must be from 1 to max_workers={self.max_workers}"
            )
        if self.placement.startswith("STRICT"):
            raise ValueError(f"max_workers needs placement PACK or SPREAD, not {self.placement}")
        return self

    @model_validator(mode="after")
    def _names_are_custom(self) -> "ClusterConfig":
        taken = {"CPU", "GPU"} & self.resources_per_worker.keys()
        if taken:
            raise ValueError(
                f"resources_per_worker names {' and '.join(sorted(taken))}; set "
                "cpus_per_worker and gpus_per_worker instead"
            )
        return self

    @property
    def elastic(self) -> bool:
        """Whether the number of workers may change while the run goes on."""
        return self.max_workers > 0

    @property
    def fewest(self) -> int:
        """Workers without which the run waits."""
        return self.min_workers if self.elastic else self.workers

    @property
    def most(self) -> int:
        """Workers that there are when all nodes are there."""
        return self.max_workers if self.elastic else self.workers

    @property
    def resources(self) -> dict[str, float]:
        """What one worker takes of its node."""
        sizes = {"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker}
        return {name: n for name, n in sizes.items() if n} | self.resources_per_worker
