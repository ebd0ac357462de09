"""What a step asks of a GPU, by formula: products, operations, bytes of activations.

Everything follows from the settings and from how many rows of each kind a micro-batch has. Shapes:
B pairs, I images, O objects of an image, W packed word pieces, T the longest sentence, H hidden,
E hidden of a feed-forward block, V vocabulary, A answers.
"""

from dataclasses import dataclass

from lxmert_dist.config import ModelConfig, ObjectivesConfig
from lxmert_dist.schema import DataSpec, MicroBatch, PretrainTargets

VISUAL_TASKS = ("object_label", "attribute_label", "roi_feature")


@dataclass(frozen=True)
class Rows:
    """How many rows of each kind a micro-batch has; expected values need not be whole."""

    pairs: float
    images: float
    """Copies of images; pairs of a group share one."""
    words: float
    """Real word pieces of all pairs, [CLS] and [SEP] included."""
    longest: int
    """Word pieces of the longest sentence: to them attention pads the others."""
    masked_words: float
    masked_objects: float
    questions: float
    """Pairs that train the answer head."""


@dataclass(frozen=True)
class Text:
    """What sentences are like."""

    mean_pieces: float
    """Word pieces of a sentence after the cut, with [CLS] and [SEP]."""
    answered_share: float
    """Of all pairs, those whose answer is in the table."""


def rows_of(batch: MicroBatch) -> Rows:
    """Of a batch of the pretraining tasks.

    Raises:
        TypeError: the batch was collated for another task.
    """
    targets = batch.targets
    if not isinstance(targets, PretrainTargets):
        raise TypeError("rows_of needs batches from pretraining_collate")
    pairs, longest = batch.inputs.attention_mask.shape
    return Rows(
        pairs=pairs,
        images=len(batch.inputs.roi_features),
        words=len(batch.inputs.token_ids),
        longest=longest,
        masked_words=len(targets.masked_tokens),
        masked_objects=len(targets.masked_object_rows),
        questions=len(targets.questions),
    )


def expected_rows(
    pairs: int,
    text: Text,
    objectives: ObjectivesConfig,
    *,
    num_objects: int,
    max_tokens: int,
    pairs_per_image: int = 1,
) -> Rows:
    """Of ``pairs`` >= 1 pairs, on average.

    [CLS] and [SEP] are never masked; a mismatched pair has no answer. The longest sentence counts
    as ``max_tokens``, which is so in all but small batches.
    """
    return Rows(
        pairs=pairs,
        images=max(1.0, pairs / pairs_per_image),
        words=pairs * text.mean_pieces,
        longest=max_tokens,
        masked_words=pairs * (text.mean_pieces - 2) * objectives.token_mask_rate,
        masked_objects=pairs * num_objects * objectives.object_mask_rate,
        questions=pairs * text.answered_share * (1 - objectives.mismatch_rate),
    )


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of the products of a micro-batch, 2 a multiply-add."""

    visual_embedding: float
    language_encoder: float
    object_relationship_encoder: float
    cross_modality_encoder: float
    heads: float

    @property
    def encoders(self) -> float:
        """What activation checkpointing computes once more."""
        return (
            self.language_encoder + self.object_relationship_encoder + self.cross_modality_encoder
        )

    @property
    def forward(self) -> float:
        """The forward pass."""
        return self.visual_embedding + self.encoders + self.heads

    @property
    def step(self) -> float:
        """Forward and backward.

        The backward pass has two products for each of the forward's, for the rows and for the
        weights; what reads features and boxes needs the latter alone.
        """
        return 3 * self.forward - self.visual_embedding


def count_flops(
    model: ModelConfig, objectives: ObjectivesConfig, spec: DataSpec, rows: Rows
) -> Flops:
    """Of a micro-batch.

    A product of (N, I) by (I, H) is 2 N I H. A layer's rows are projected to queries, keys and
    values (3 H^2), to the block's output (H^2), and through the feed-forward block (2 H E); a
    query row meets every key row twice, by 2 H each (paper, section 2.2).
    """
    width, inner = model.hidden_size, model.intermediate_size
    objects = rows.images * spec.num_objects  # of images
    shown = rows.pairs * spec.num_objects  # of pairs
    projected, output, block = 6 * width**2, 2 * width**2, 4 * width * inner
    layer = projected + output + block

    def look(pairs: float, asking: int, asked: int) -> float:
        return 4 * pairs * asking * asked * width

    of_words = rows.words * layer + look(rows.pairs, rows.longest, rows.longest)
    of_objects = objects * layer + look(rows.images, spec.num_objects, spec.num_objects)
    crossing = (rows.words + shown) * (projected + output) + 2 * look(
        rows.pairs, rows.longest, spec.num_objects
    )
    branches = of_words + shown * layer + look(rows.pairs, spec.num_objects, spec.num_objects)
    cross = model.num_cross_layers * (crossing + branches)
    cross -= (shown - objects) * projected  # the first one projects an image once
    cross -= _not_read(model, objectives, spec, rows)
    return Flops(
        visual_embedding=2 * objects * (spec.feature_dim + 4) * width,
        language_encoder=model.num_language_layers * of_words,
        object_relationship_encoder=model.num_relationship_layers * of_objects,
        cross_modality_encoder=cross,
        heads=_heads(width, objectives, spec, rows),
    )


def visual_tasks_on(objectives: ObjectivesConfig) -> tuple[str, ...]:
    """Those of masked object prediction that have a weight."""
    return tuple(name for name in VISUAL_TASKS if getattr(objectives, f"{name}_weight"))


def _not_read(
    model: ModelConfig, objectives: ObjectivesConfig, spec: DataSpec, rows: Rows
) -> float:
    """What the last cross layer does not compute, since no loss reads it."""
    width, shown = model.hidden_size, rows.pairs * spec.num_objects
    behind = 2 * width**2 + 4 * width * model.intermediate_size  # behind the attention, a row
    read = rows.masked_words + rows.pairs  # [CLS] is pooled
    spared = (rows.words - read) * behind
    if not visual_tasks_on(objectives):
        cross = 2 * width**2 * shown + 4 * shown * rows.longest * width
        attention = 6 * width**2 * shown + 4 * shown * spec.num_objects * width
        return spared + cross + attention + shown * behind
    if objectives.label_scope == "masked":
        spared += (shown - rows.masked_objects) * behind
    return spared


def _heads(width: int, objectives: ObjectivesConfig, spec: DataSpec, rows: Rows) -> float:
    """Pooler, matching, masked language, the visual head and the answers."""
    found = rows.pairs * (2 * width**2 + 4 * width)
    found += rows.masked_words * (2 * width**2 + 2 * width * spec.vocab_size)
    if spec.num_answers:
        found += rows.questions * (4 * width**2 + 4 * width * spec.num_answers)
    tasks = visual_tasks_on(objectives)
    if tasks:
        masked_only = objectives.label_scope == "masked"
        seen = rows.masked_objects if masked_only else rows.pairs * spec.num_objects
        widths = {
            "object_label": seen * spec.num_object_classes,
            "attribute_label": seen * spec.num_attribute_classes,
            "roi_feature": rows.masked_objects * spec.feature_dim,
        }
        found += 2 * width * (seen * width + sum(widths[name] for name in tasks))
    return found


def count_params(model: ModelConfig, objectives: ObjectivesConfig, spec: DataSpec) -> int:
    """Parameters that are trained; the word embedding decodes too, and counts once."""
    width, inner = model.hidden_size, model.intermediate_size
    norm, square = 2 * width, width**2 + width
    attention = 4 * square + norm
    layer = attention + 2 * width * inner + inner + width + norm
    found = (spec.vocab_size + model.max_positions + model.token_types) * width + norm
    found += (spec.feature_dim + 4 + 2) * width + 2 * norm  # visual embedding
    found += (model.num_language_layers + model.num_relationship_layers) * layer
    found += model.num_cross_layers * (attention + 2 * layer)
    found += square  # pooler
    found += square + norm + spec.vocab_size  # masked language
    found += 2 * width + 2  # matching
    if spec.num_answers:
        found += 2 * square + 2 * norm + (2 * width + 1) * spec.num_answers
    tasks = visual_tasks_on(objectives)
    if not tasks:
        return found - layer  # nothing reads the last visual branch
    widths = {
        "object_label": spec.num_object_classes,
        "attribute_label": spec.num_attribute_classes,
        "roi_feature": spec.feature_dim,
    }
    return found + square + norm + sum((width + 1) * widths[name] for name in tasks)


def count_operations(model: ModelConfig) -> int:
    """Operations that a forward and backward pass starts, views left out.

    Counted of the real task on a CPU, layer by layer (``tests/cluster/test_work.py`` counts again);
    a GPU's fused attention starts a few less, ``train.compile`` many less.
    """
    return (
        94 * model.num_language_layers
        + 85 * model.num_relationship_layers
        + 302 * model.num_cross_layers
        + 273
    )


def activation_bytes(
    model: ModelConfig,
    objectives: ObjectivesConfig,
    spec: DataSpec,
    rows: Rows,
    *,
    item: int,
    recompute: bool,
) -> float:
    """An estimate of what a forward pass keeps for the backward pass of a micro-batch, on a GPU.

    A layer keeps, for each row: its input, what attention read, the sums before both norms, the
    input of the feed-forward block (5 H) and its inside (E), all of ``item`` bytes, and two dropout
    masks of a byte; and for each position of the padded grid queries, keys, values and what was
    looked up (4 H). GELU is computed again, and fused attention keeps no scores. Logits are kept in
    ``item`` bytes and once more in fp32. With ``recompute`` a layer keeps its input alone, and one
    is opened at a time.
    """
    width, inner = model.hidden_size, model.intermediate_size
    masks = 2 * width
    attention = 3 * width * item + width  # rows of a block: input, looked up, sum; one mask
    grid = 4 * width * item
    layer = (5 * width + inner) * item + masks
    objects, shown = rows.images * spec.num_objects, rows.pairs * spec.num_objects
    padded = rows.pairs * rows.longest
    language = rows.words * layer + padded * grid
    relationship = objects * (layer + grid)
    crossing = (rows.words + shown) * attention + (padded + shown) * grid
    cross = crossing + language + shown * (layer + grid)
    tasks = visual_tasks_on(objectives)
    seen = rows.masked_objects if objectives.label_scope == "masked" else shown
    logits = rows.masked_words * spec.vocab_size + rows.questions * spec.num_answers
    if "object_label" in tasks:
        logits += seen * spec.num_object_classes
    if "attribute_label" in tasks:
        logits += seen * spec.num_attribute_classes
    inputs = objects * spec.feature_dim * item
    heads = logits * (item + 4) + (seen + rows.masked_words) * 3 * width * item
    depths = model.num_language_layers, model.num_relationship_layers, model.num_cross_layers
    if recompute:
        held = depths[0] * rows.words + depths[1] * objects + depths[2] * (rows.words + shown)
        opened = max(
            size
            for size, depth in zip((language, relationship, cross), depths, strict=True)
            if depth
        )
        return inputs + heads + held * width * item + opened
    return (
        inputs
        + heads
        + sum(
            depth * size
            for depth, size in zip(depths, (language, relationship, cross), strict=True)
        )
    )
