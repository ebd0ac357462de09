"""The five pretraining tasks in one forward (paper, section 3).

Shapes: B pairs, O objects of an image, I images, R objects that are read, V vocabulary, A answers,
M masked word pieces, Q questions.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from lxmert_dist.config.sections import ModelConfig, ObjectivesConfig
from lxmert_dist.model import (
    AnswerHead,
    LxmertModel,
    MaskedLanguageHead,
    MatchingHead,
    VisualHead,
)
from lxmert_dist.objectives.losses import (
    accuracy,
    cross_entropy_sum,
    feature_regression_sum,
    weighted_cross_entropy_sum,
)
from lxmert_dist.schema import (
    IGNORED,
    DataSpec,
    LossReport,
    MicroBatch,
    ModelInputs,
    PretrainTargets,
)


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
        """Build with fresh weights, drawn from torch's global generator.

        A visual task of weight 0 is off. Its decoder is kept, so that weights move by name, but
        requires no gradient; without any visual task nor does what leads to them alone.
        """
        super().__init__()
        self.objectives = objectives
        self.model = LxmertModel(model_config, spec)
        self.masked_lm_head = MaskedLanguageHead(model_config, spec)
        self.matching_head = MatchingHead(model_config)
        self.visual_head = VisualHead(model_config, spec)
        self.answer_head = AnswerHead(model_config, spec.num_answers) if spec.num_answers else None
        for name, decoder in self._visual_decoders().items():
            decoder.requires_grad_(name in self._visual_tasks)
        if not self._visual_tasks:
            self.visual_head.requires_grad_(False)
            for parameter in self.model.cross_modality_encoder.last_visual_branch():
                parameter.requires_grad_(False)

    def _visual_decoders(self) -> dict[str, nn.Module]:
        head = self.visual_head
        return {
            "object_label": head.object_label,
            "attribute_label": head.attribute_label,
            "roi_feature": head.roi_feature,
        }

    @property
    def _visual_tasks(self) -> tuple[str, ...]:
        """Those of masked object prediction that are on."""
        weights = self.loss_weights_at(0)
        return tuple(n for n in ("object_label", "attribute_label", "roi_feature") if weights[n])

    def loss_weights_at(self, step: int) -> dict[str, float]:
        """What multiplies each mean loss in the total of optimiser step ``step``."""
        settings = self.objectives
        return {
            "masked_lm": settings.masked_lm_weight,
            "matching": settings.matching_weight,
            "object_label": settings.object_label_weight,
            "attribute_label": settings.attribute_label_weight,
            "roi_feature": settings.roi_feature_weight,
            "image_qa": settings.image_qa_weight_at(step),
        }

    def forward(self, batch: MicroBatch) -> LossReport:
        """Sums of all six losses, and the accuracies; a task that is off gives 0.

        Every parameter that requires a gradient takes part in every forward, with a zero gradient
        where nothing is labelled, as ZeRO's reductions require.

        Raises:
            TypeError: the batch was collated for another task.
        """
        targets = batch.targets
        if not isinstance(targets, PretrainTargets):
            raise TypeError("PretrainingTask needs batches from pretraining_collate")
        masked_only = self.objectives.label_scope == "masked"
        encoded = self.model(
            batch.inputs,
            tokens=targets.masked_tokens.clamp(min=0),
            objects=targets.masked_object_rows.clamp(min=0) if masked_only else None,
            need_vision=bool(self._visual_tasks),
        )
        word_logits = self.masked_lm_head(encoded.language, encoded.word_table)  # (M, V)
        match_logits = self.matching_head(encoded.pooled)  # (B, 2)
        losses = {
            "masked_lm": cross_entropy_sum(word_logits, targets.masked_lm),
            "matching": cross_entropy_sum(match_logits, targets.is_matched),
        }
        metrics = {
            "masked_lm_accuracy": accuracy(word_logits, targets.masked_lm),
            "matching_accuracy": accuracy(match_logits, targets.is_matched),
        }
        for part in (
            self._describe_objects(encoded.vision, batch.inputs, targets),
            self._answer(encoded.pooled, targets),
        ):
            losses.update(part.losses)
            metrics.update(part.metrics)
        return LossReport(losses, metrics)

    def _describe_objects(
        self, vision: Float[Tensor, "R H"] | None, inputs: ModelInputs, targets: PretrainTargets
    ) -> LossReport:
        """The three losses of masked object prediction."""
        settings, on = self.objectives, self._visual_tasks
        nothing = inputs.boxes.new_zeros((), dtype=torch.float32)
        losses = dict.fromkeys(("object_label", "attribute_label", "roi_feature"), nothing)
        metrics = {f"{name}_accuracy": (nothing, nothing) for name in losses if "label" in name}
        if vision is None:
            return LossReport(losses, metrics)
        rows, originals = targets.masked_object_rows, targets.original_rows
        masked_only = settings.label_scope == "masked"
        seen = self.visual_head(
            vision,
            None if masked_only else rows.clamp(min=0),
            **{name: name in on for name in losses},
        )

        def of_pairs(values: Tensor) -> Tensor:
            """What images have, (I, O), at the objects that are labelled, (R,)."""
            every = values.index_select(0, inputs.image_index).flatten()
            return every.index_select(0, rows.clamp(min=0)) if masked_only else every

        if masked_only:
            covered = rows != IGNORED
        elif inputs.object_mask is None:
            covered = torch.ones_like(vision[:, 0], dtype=torch.bool)
        else:
            covered = of_pairs(inputs.object_mask)
        for name, logits, ids, scores in (
            ("object_label", seen.object_logits, targets.object_ids, targets.object_scores),
            (
                "attribute_label",
                seen.attribute_logits,
                targets.attribute_ids,
                targets.attribute_scores,
            ),
        ):
            if logits is not None:
                labels = of_pairs(ids).masked_fill(~covered, IGNORED)
                sure = of_pairs(scores) if settings.weigh_labels_by_score else covered
                losses[name] = weighted_cross_entropy_sum(logits, labels, sure.float())
                metrics[f"{name}_accuracy"] = accuracy(logits, labels)
        if seen.roi_features is not None:
            wanted = targets.roi_features.index_select(0, originals.clamp(min=0))
            counted = (originals != IGNORED)[:, None]
            losses["roi_feature"] = feature_regression_sum(
                seen.roi_features * counted, wanted * counted, settings.feature_loss
            )
        return LossReport(losses, metrics)

    def _answer(self, pooled: Float[Tensor, "B H"], targets: PretrainTargets) -> LossReport:
        """The loss of image question answering."""
        if self.answer_head is None:
            nothing = pooled.new_zeros((), dtype=torch.float32)
            loss, metric = nothing, (nothing, nothing)
        else:
            answer_ids: Int64[Tensor, " Q"] = targets.answer_ids
            asked = pooled.index_select(0, targets.questions.clamp(min=0))
            logits = self.answer_head(asked)  # (Q, A)
            loss, metric = cross_entropy_sum(logits, answer_ids), accuracy(logits, answer_ids)
        return LossReport({"image_qa": loss}, {"image_qa_accuracy": metric})
