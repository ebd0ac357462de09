"""From raw pairs to what the five pretraining tasks read and should say.

Shapes: B pairs, T tokens, W packed word pieces, I images, O objects.
"""

import numpy as np
from jaxtyping import Bool, Int, Int64

from lxmert_dist.config.sections import ObjectivesConfig
from lxmert_dist.errors import ConfigError
from lxmert_dist.objectives.answers import draw_answers
from lxmert_dist.objectives.masking import mask_objects, mask_tokens
from lxmert_dist.objectives.matching import draw_sentences
from lxmert_dist.schema import (
    IGNORED,
    Collate,
    DataSpec,
    MicroBatch,
    ModelInputs,
    PairBatch,
    PretrainTargets,
)
from lxmert_dist.store.sentences import SentenceTable
from lxmert_dist.store.slabs import ArrayPool
from lxmert_dist.tasks.inputs import model_inputs, read_tokens, rows_of, to_tensor


def pretraining_collate(
    sentences: SentenceTable,
    spec: DataSpec,
    objectives: ObjectivesConfig,
    *,
    seed: int,
    max_tokens: int,
    candidates: Int[np.ndarray, " C"] | None = None,
    fixed_epoch: int | None = None,
    multiple: int = 1,
) -> Collate:
    """The function that swaps, masks and labels the pairs of a batch.

    Args:
        sentences: of the split.
        spec: of the store.
        objectives: the rates.
        seed: of the run; keys every draw.
        max_tokens: longest sentence, special tokens included.
        candidates: pair ids that the run reads, from which mismatched sentences are drawn; None
            is the whole split.
        fixed_epoch: keys the draws instead of the batch's epoch, so that each validation sees the
            same masks.
        multiple: see ``train.shape_multiple``.

    Raises:
        ConfigError: mismatching is on, but all sentences belong to one image.
    """
    images = sentences.image_rows if candidates is None else sentences.image_rows[candidates]
    if objectives.mismatch_rate and not (images != images[:1]).any():
        raise ConfigError(
            f"objectives.mismatch_rate={objectives.mismatch_rate} needs sentences of two images "
            "or more, and this split has one; set it to 0"
        )

    memory = ArrayPool()

    def collate(batch: PairBatch) -> MicroBatch:
        epoch = batch.epoch if fixed_epoch is None else fixed_epoch
        drawn = draw_sentences(
            batch.pair_ids,
            sentences.image_rows,
            candidates,
            rate=objectives.mismatch_rate,
            seed=seed,
            epoch=epoch,
        )
        token_ids, lengths = read_tokens(sentences, drawn.pair_ids, spec, max_tokens, multiple)
        tokens = mask_tokens(
            token_ids, lengths, batch.pair_ids, spec, objectives, seed=seed, epoch=epoch
        )
        objects = mask_objects(batch, objectives, seed=seed, epoch=epoch, empty=memory.empty)
        answer_ids = draw_answers(
            batch.pair_ids,
            drawn.is_matched,
            *sentences.answers(batch.pair_ids),
            seed=seed,
            epoch=epoch,
        )
        inputs = model_inputs(tokens.token_ids, lengths, objects.roi_features, batch, multiple)
        return MicroBatch(
            pair_ids=to_tensor(batch.pair_ids),
            inputs=inputs,
            targets=_targets(
                batch, inputs, tokens.labels, drawn.is_matched, objects.chosen, answer_ids, multiple
            ),
            counts=_counts(batch, tokens.labels, objects.chosen, answer_ids, objectives),
        )

    return collate


def _targets(
    batch: PairBatch,
    inputs: ModelInputs,
    word_labels: Int64[np.ndarray, "B T"],
    is_matched: Bool[np.ndarray, " B"],
    masked_objects: Bool[np.ndarray, "I O"],
    answer_ids: Int64[np.ndarray, " B"],
    multiple: int,
) -> PretrainTargets:
    packed = word_labels.ravel()[inputs.slots.numpy()]  # (W,)
    words = rows_of(packed != IGNORED, multiple)
    questions = rows_of(answer_ids != IGNORED, multiple)
    rows = rows_of(masked_objects[batch.image_index], multiple)
    originals = (np.cumsum(masked_objects) - 1).reshape(masked_objects.shape)  # (I, O)
    return PretrainTargets(
        masked_tokens=to_tensor(words),
        masked_lm=to_tensor(_at(packed, words)),
        is_matched=to_tensor(is_matched.astype(np.int64)),
        object_ids=to_tensor(batch.object_ids),
        object_scores=to_tensor(batch.object_scores),
        attribute_ids=to_tensor(batch.attribute_ids),
        attribute_scores=to_tensor(batch.attribute_scores),
        masked_objects=to_tensor(masked_objects),
        roi_features=to_tensor(batch.roi_features[masked_objects]),
        masked_object_rows=to_tensor(rows),
        original_rows=to_tensor(_at(originals[batch.image_index].ravel(), rows)),
        questions=to_tensor(questions),
        answer_ids=to_tensor(_at(answer_ids, questions)),
    )


def _at(values: Int64[np.ndarray, " N"], rows: Int64[np.ndarray, " R"]) -> Int64[np.ndarray, " R"]:
    """Values at some rows, and ``IGNORED`` where the row is."""
    return np.where(rows == IGNORED, IGNORED, values[rows])


def _counts(
    batch: PairBatch,
    word_labels: Int64[np.ndarray, "B T"],
    masked_objects: Bool[np.ndarray, "I O"],
    answer_ids: Int64[np.ndarray, " B"],
    objectives: ObjectivesConfig,
) -> dict[str, float]:
    """What the loop divides by."""
    counted = masked_objects if objectives.visual_mean_over == "masked" else batch.real_objects
    if counted is None:
        counted = np.ones_like(masked_objects)
    objects = float(counted[batch.image_index].sum())
    return {
        "masked_lm": float((word_labels != IGNORED).sum()),
        "matching": float(len(answer_ids)),
        "object_label": objects,
        "attribute_label": objects,
        "roi_feature": objects,
        "image_qa": float((answer_ids != IGNORED).sum()),
    }
