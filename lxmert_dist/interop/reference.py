"""Our batches as ``LxmertForPreTraining`` of transformers takes them, to compare numbers.

Shapes: B pairs, T tokens, O objects, F feature width.
"""

from typing import Any

import torch
from torch import Tensor

from lxmert_dist.schema import IGNORED, MicroBatch, ModelInputs, PretrainTargets

THEIR_IGNORED = -100


def reference_inputs(inputs: ModelInputs) -> dict[str, Tensor | None]:
    """The keyword arguments of a forward: sentences padded to (B, T), an image for every pair."""
    mask = inputs.object_mask
    return {
        "input_ids": inputs.padded_token_ids(),
        "attention_mask": inputs.attention_mask.long(),
        "visual_feats": _per_pair(inputs.roi_features, inputs).float(),
        "visual_pos": _per_pair(inputs.boxes, inputs).float(),
        "visual_attention_mask": None if mask is None else _per_pair(mask, inputs).long(),
    }


def reference_labels(batch: MicroBatch) -> dict[str, Any]:
    """The keyword arguments for all six losses of a pretraining batch.

    Raises:
        TypeError: the batch is for another task.
    """
    targets, inputs = batch.targets, batch.inputs
    if not isinstance(targets, PretrainTargets):
        raise TypeError("reference labels are those of a pretraining batch")
    words = torch.full_like(inputs.attention_mask, THEIR_IGNORED, dtype=torch.int64)  # (B, T)
    masked = targets.masked_lm != IGNORED
    places = inputs.slots[targets.masked_tokens[masked]]
    words.view(-1)[places] = targets.masked_lm[masked]
    answers = torch.full_like(targets.is_matched, THEIR_IGNORED)  # (B,)
    asked = targets.answer_ids != IGNORED
    answers[targets.questions[asked]] = targets.answer_ids[asked]
    features = torch.zeros_like(inputs.roi_features, dtype=torch.float32)
    features[targets.masked_objects] = targets.roi_features.float()
    objects = {
        "obj": (targets.object_ids, targets.object_scores),
        "attr": (targets.attribute_ids, targets.attribute_scores),
        "feat": (features, targets.masked_objects.float()),
    }
    return {
        "labels": words,
        "matched_label": targets.is_matched,
        "ans": answers,
        "obj_labels": {
            name: tuple(_per_pair(part, inputs) for part in parts)
            for name, parts in objects.items()
        },
    }


def _per_pair(images: Tensor, inputs: ModelInputs) -> Tensor:
    return images.index_select(0, inputs.image_index)
