"""The five pretraining tasks in one forward (paper, section 3).

Shapes: B pairs, T tokens, O objects, V vocabulary, A answers, M masked positions or objects.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from lxmert_dist.config.sections import ModelConfig, ObjectivesConfig
from lxmert_dist.errors import ConfigError
from lxmert_dist.model import (
    AnswerHead,
    LxmertModel,
    MaskedLanguageHead,
    MatchingHead,
    VisualHead,
    VisualPredictions,
)
from lxmert_dist.objectives.answers import draw_answers
from lxmert_dist.objectives.losses import (
    accuracy,
    cross_entropy_sum,
    feature_regression_sum,
    weighted_cross_entropy_sum,
)
from lxmert_dist.objectives.masking import mask_objects, mask_tokens
from lxmert_dist.objectives.matching import draw_sentences
from lxmert_dist.schema import (
    IGNORED,
    Collate,
    DataSpec,
    LossReport,
    MicroBatch,
    PairBatch,
    PretrainTargets,
)
from lxmert_dist.store.sentences import SentenceTable
from lxmert_dist.tasks.inputs import model_inputs, read_tokens, to_tensor


class PretrainingTask(nn.Module):
    """The model and all five heads; the answer head is absent where a store has no answers."""

    loss_names = (
        "masked_lm",
        "matching",
        "object_label",
        "attribute_label",
        "roi_feature",
        "image_qa",
    )

    def __init__(
        self, model_config: ModelConfig, objectives: ObjectivesConfig, spec: DataSpec
    ) -> None:
        """Build with fresh weights, drawn from torch's global generator."""
        super().__init__()
        self.objectives = objectives
        self.model = LxmertModel(model_config, spec)
        self.masked_lm_head = MaskedLanguageHead(model_config, spec)
        self.matching_head = MatchingHead(model_config)
        self.visual_head = VisualHead(model_config, spec)
        self.answer_head = AnswerHead(model_config, spec.num_answers) if spec.num_answers else None

    @property
    def loss_weights(self) -> dict[str, float]:
        """What multiplies each mean loss in the total."""
        settings = self.objectives
        return {
            "masked_lm": settings.masked_lm_weight,
            "matching": settings.matching_weight,
            "object_label": settings.visual_weight,
            "attribute_label": settings.visual_weight,
            "roi_feature": settings.visual_weight,
            "image_qa": settings.image_qa_weight,
        }

    def forward(self, batch: MicroBatch) -> LossReport:
        """Sums of all six losses, and the accuracies.

        Every parameter takes part in every forward, with a zero gradient where nothing is
        labelled, as ZeRO's reductions require.

        Raises:
            TypeError: the batch was collated for another task.
        """
        targets = batch.targets
        if not isinstance(targets, PretrainTargets):
            raise TypeError("PretrainingTask needs batches from pretraining_collate")
        encoded = self.model(batch.inputs)
        positions = targets.masked_lm != IGNORED  # (B, T)
        words = targets.masked_lm[positions]  # (M,)
        word_logits = self.masked_lm_head(
            encoded.language[positions], self.model.word_weight
        )  # (M, V)
        match_logits = self.matching_head(encoded.pooled)  # (B, 2)
        visual = self.visual_head(encoded.vision, targets.masked_objects)
        losses = {
            "masked_lm": cross_entropy_sum(word_logits, words),
            "matching": cross_entropy_sum(match_logits, targets.is_matched),
        }
        metrics = {
            "masked_lm_accuracy": accuracy(word_logits, words),
            "matching_accuracy": accuracy(match_logits, targets.is_matched),
        }
        for part in (
            self._describe_objects(visual, targets),
            self._answer(encoded.pooled, targets.answer_ids),
        ):
            losses.update(part.losses)
            metrics.update(part.metrics)
        return LossReport(losses, metrics)

    def _describe_objects(self, visual: VisualPredictions, targets: PretrainTargets) -> LossReport:
        """The three losses of masked object prediction."""
        settings = self.objectives
        masked = targets.masked_objects  # (B, O)
        covered = masked if settings.label_scope == "masked" else torch.ones_like(masked)
        object_weights, attribute_weights = (
            covered * scores.float() if settings.weigh_labels_by_score else covered.float()
            for scores in (targets.object_scores, targets.attribute_scores)
        )
        return LossReport(
            losses={
                "object_label": weighted_cross_entropy_sum(
                    visual.object_logits, targets.object_ids, object_weights
                ),
                "attribute_label": weighted_cross_entropy_sum(
                    visual.attribute_logits, targets.attribute_ids, attribute_weights
                ),
                "roi_feature": feature_regression_sum(
                    visual.roi_features, targets.roi_features, settings.feature_loss
                ),
            },
            metrics={
                "object_label_accuracy": accuracy(
                    visual.object_logits, targets.object_ids, covered
                ),
                "attribute_label_accuracy": accuracy(
                    visual.attribute_logits, targets.attribute_ids, covered
                ),
            },
        )

    def _answer(self, pooled: Float[Tensor, "B H"], answer_ids: Int64[Tensor, " B"]) -> LossReport:
        """The loss of image question answering."""
        if self.answer_head is None:
            nothing = pooled.new_zeros((), dtype=torch.float32)
            loss, metric = pooled.float().sum() * 0, (nothing, nothing)
        else:
            logits = self.answer_head(pooled)  # (B, A)
            loss, metric = cross_entropy_sum(logits, answer_ids), accuracy(logits, answer_ids)
        return LossReport({"image_qa": loss}, {"image_qa_accuracy": metric})


def pretraining_collate(
    sentences: SentenceTable,
    spec: DataSpec,
    objectives: ObjectivesConfig,
    *,
    seed: int,
    max_tokens: int,
    candidates: Int64[np.ndarray, " C"] | None = None,
    fixed_epoch: int | None = None,
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

    Raises:
        ConfigError: mismatching is on, but all sentences belong to one image.
    """
    images = sentences.image_rows if candidates is None else sentences.image_rows[candidates]
    if objectives.mismatch_rate and not (images != images[:1]).any():
        raise ConfigError(
            f"objectives.mismatch_rate={objectives.mismatch_rate} needs sentences of two images "
            "or more, and this split has one; set it to 0"
        )

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
        token_ids, lengths = read_tokens(sentences, drawn.pair_ids, spec, max_tokens)
        tokens = mask_tokens(
            token_ids, lengths, batch.pair_ids, spec, objectives, seed=seed, epoch=epoch
        )
        objects = mask_objects(batch, objectives, seed=seed, epoch=epoch)
        answer_ids = draw_answers(
            batch.pair_ids,
            drawn.is_matched,
            *sentences.answers(batch.pair_ids),
            seed=seed,
            epoch=epoch,
        )
        return MicroBatch(
            pair_ids=to_tensor(batch.pair_ids),
            inputs=model_inputs(tokens.token_ids, lengths, objects.roi_features, batch),
            targets=_targets(batch, tokens.labels, drawn.is_matched, objects.chosen, answer_ids),
            counts=_counts(tokens.labels, objects.chosen, answer_ids),
        )

    return collate


def _targets(
    batch: PairBatch,
    word_labels: Int64[np.ndarray, "B T"],
    is_matched: Bool[np.ndarray, " B"],
    masked_objects: Bool[np.ndarray, "B O"],
    answer_ids: Int64[np.ndarray, " B"],
) -> PretrainTargets:
    return PretrainTargets(
        masked_lm=to_tensor(word_labels),
        is_matched=to_tensor(is_matched.astype(np.int64)),
        object_ids=to_tensor(batch.object_ids),
        object_scores=to_tensor(batch.object_scores),
        attribute_ids=to_tensor(batch.attribute_ids),
        attribute_scores=to_tensor(batch.attribute_scores),
        masked_objects=to_tensor(masked_objects),
        roi_features=to_tensor(batch.roi_features[masked_objects]),
        answer_ids=to_tensor(answer_ids),
    )


def _counts(
    word_labels: Int64[np.ndarray, "B T"],
    masked_objects: Bool[np.ndarray, "B O"],
    answer_ids: Int64[np.ndarray, " B"],
) -> dict[str, float]:
    """What the loop divides by; the visual losses by all objects (spec of the released code)."""
    pairs, objects = len(answer_ids), masked_objects.size
    return {
        "masked_lm": float((word_labels != IGNORED).sum()),
        "matching": float(pairs),
        "object_label": float(objects),
        "attribute_label": float(objects),
        "roi_feature": float(objects),
        "image_qa": float((answer_ids != IGNORED).sum()),
    }
