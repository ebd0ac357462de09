"""Our modules around some weights: whether they fit, and what they say of the probe."""

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from lxmert_dist.errors import CheckpointError
from lxmert_dist.interop.probe import Outputs, Probe, our_inputs
from lxmert_dist.model import (
    AnswerHead,
    LxmertModel,
    MaskedLanguageHead,
    MatchingHead,
    VisualHead,
)
from lxmert_dist.schema import DataSpec
from lxmert_dist.tasks.weights import TaskWeights

BERT_FEATURES = 4
"""Feature width of the model that is built around weights which know of none."""


class Modules(nn.Module):
    """The backbone and the heads that weights have, under the names of our tasks."""

    def __init__(self, weights: TaskWeights) -> None:
        """Build on the current device, with fresh weights."""
        super().__init__()
        model, spec = weights.description.model, _spec(weights)
        heads = {name.partition(".")[0] for name in weights.tensors}
        self.model = LxmertModel(model, spec)
        if "masked_lm_head" in heads:
            self.masked_lm_head = MaskedLanguageHead(model, spec)
        if "matching_head" in heads:
            self.matching_head = MatchingHead(model)
        if "visual_head" in heads:
            self.visual_head = VisualHead(model, spec)
        if "answer_head" in heads:
            self.answer_head = AnswerHead(model, spec.num_answers)
        if "pair_head" in heads:
            rows = weights.tensors.get("pair_head.decoder.bias")
            self.pair_head = AnswerHead(model, 2 if rows is None else len(rows), 2)


def check(weights: TaskWeights) -> None:
    """Whether all tensors are there, in their shapes, and no others.

    Raises:
        CheckpointError: one is missing, left over, or of another shape.
    """
    with torch.device("meta"):
        expected = {n: tuple(t.shape) for n, t in Modules(weights).state_dict().items()}
    for name, shape in expected.items():
        there = weights.tensors.get(name)
        if there is None:
            if weights.description.partial and not _bert_has(name):
                continue
            raise CheckpointError(f"{weights.uri} lacks {name}; give the whole file")
        if tuple(there.shape) != shape:
            raise CheckpointError(
                f"{weights.uri}: {name} is {tuple(there.shape)}, where the others ask for {shape}; "
                "give the weights as they were written"
            )
    strange = next((name for name in weights.tensors if name not in expected), None)
    if strange:
        raise CheckpointError(
            f"{weights.uri}: {strange} is of no model that can be converted; "
            "give weights of LXMERT or BERT"
        )


def opened(weights: TaskWeights) -> Modules:
    """Our modules with these weights, for inference.

    Raises:
        CheckpointError: as :func:`check`.
    """
    check(weights)
    with torch.device("meta"):
        modules = Modules(weights).eval()
    modules.load_state_dict(weights.tensors, assign=True)
    return modules


@torch.no_grad()
def outputs(weights: TaskWeights, probe: Probe) -> Outputs:
    """What every module says of the probe; of BERT, what stands before the objects.

    Raises:
        CheckpointError: as :func:`check`.
    """
    if weights.description.partial:
        check(weights)
        return _bert_outputs(weights, probe)
    modules = opened(weights)
    encoded = modules.model(our_inputs(probe))
    assert encoded.vision is not None
    found = {"language": encoded.language, "vision": encoded.vision, "pooled": encoded.pooled}
    found |= _head_outputs(modules, encoded.language, encoded.pooled)
    if hasattr(modules, "visual_head"):
        said = modules.visual_head(encoded.vision)
        found |= {
            "object_label": said.object_logits,
            "attribute_label": said.attribute_logits,
            "roi_feature": said.roi_features,
        }
    if hasattr(modules, "answer_head"):
        found["image_qa"] = modules.answer_head(encoded.pooled)
    if hasattr(modules, "pair_head"):
        found["pair"] = modules.pair_head(encoded.pooled.reshape(len(encoded.pooled) // 2, -1))
    return found


def _head_outputs(modules: Modules, language: Tensor, pooled: Tensor) -> dict[str, Tensor]:
    found = {}
    if hasattr(modules, "masked_lm_head"):
        words = modules.model.text_embedding.word.weight
        found["masked_lm"] = modules.masked_lm_head(language, words)
    if hasattr(modules, "matching_head"):
        found["matching"] = modules.matching_head(pooled)
    return found


def _bert_outputs(weights: TaskWeights, probe: Probe) -> Outputs:
    """The language encoder's states, and pooler and heads on them; the rest starts fresh."""
    modules = Modules(weights).eval()
    modules.load_state_dict(weights.tensors, strict=False)
    states: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        states.append(output)

    modules.model.language_encoder.register_forward_hook(keep)
    inputs = our_inputs(probe)
    modules.model(inputs)
    language = states[0]  # (W, H)
    found = {"language": language}
    pooled = modules.model.pooler(language[inputs.first_tokens])
    if "model.pooler.dense.weight" in weights.tensors:
        found["pooled"] = pooled
    return found | _head_outputs(modules, language, pooled)


def _spec(weights: TaskWeights) -> DataSpec:
    """The sizes, with something to build where weights show none."""
    known = weights.description.spec
    absent = {f.name: 1 for f in fields(known) if f.name.startswith("num_")}
    absent["feature_dim"] = BERT_FEATURES
    return replace(
        known, **{name: size for name, size in absent.items() if not getattr(known, name)}
    )


def _bert_has(name: str) -> bool:
    return name.startswith(("model.text_embedding.", "model.language_encoder."))
