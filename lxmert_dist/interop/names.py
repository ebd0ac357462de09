"""Our parameter names and the released code's: one table, read in both directions.

The released names are those of a pretraining snapshot without ``module.``; a head over two images
(NLVR2), which only fine-tuned snapshots have, is called ``pair_head`` on both sides.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from lxmert_dist.config.sections import ModelConfig
from lxmert_dist.errors import CheckpointError

Pairs = Iterator[tuple[str, tuple[str, ...]]]

TIED, WORDS = "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"
"""The decoder of masked words *is* the word embedding; we have no name of its own for it."""

MODULES = {
    "model.text_embedding.layer_norm": "bert.embeddings.LayerNorm",
    "model.visual_embedding.feature": "bert.encoder.visn_fc.visn_fc",
    "model.visual_embedding.feature_norm": "bert.encoder.visn_fc.visn_layer_norm",
    "model.visual_embedding.box": "bert.encoder.visn_fc.box_fc",
    "model.visual_embedding.box_norm": "bert.encoder.visn_fc.box_layer_norm",
    "model.pooler.dense": "bert.pooler.dense",
    "masked_lm_head.transform.dense": "cls.predictions.transform.dense",
    "masked_lm_head.transform.layer_norm": "cls.predictions.transform.LayerNorm",
    "matching_head.decoder": "cls.seq_relationship",
    "visual_head.transform.dense": "obj_predict_head.transform.dense",
    "visual_head.transform.layer_norm": "obj_predict_head.transform.LayerNorm",
    "visual_head.object_label": "obj_predict_head.decoder_dict.obj",
    "visual_head.attribute_label": "obj_predict_head.decoder_dict.attr",
    "visual_head.roi_feature": "obj_predict_head.decoder_dict.feat",
    "answer_head.transform.dense": "answer_head.logit_fc.0",
    "answer_head.transform.layer_norm": "answer_head.logit_fc.2",
    "answer_head.decoder": "answer_head.logit_fc.3",
    "pair_head.transform.dense": "pair_head.logit_fc.0",
    "pair_head.transform.layer_norm": "pair_head.logit_fc.2",
    "pair_head.decoder": "pair_head.logit_fc.3",
}
"""Modules with a ``weight`` and a ``bias``."""

SINGLE = {
    "model.text_embedding.word.weight": WORDS,
    "model.text_embedding.position.weight": "bert.embeddings.position_embeddings.weight",
    "model.text_embedding.token_type.weight": "bert.embeddings.token_type_embeddings.weight",
    "masked_lm_head.bias": "cls.predictions.bias",
}
"""Parameters that stand alone."""


def names(model: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Our parameter name -> the released names whose tensors, concatenated, it equals.

    Of every head there is; ``model`` gives the depths of the encoders.
    """
    return dict(_pairs(model))


def depth(tensors: Iterable[str], stack: str) -> int:
    """How many layers a stack of the encoder has, by its released name."""
    stem = f"bert.encoder.{stack}."
    numbers = (name.removeprefix(stem).split(".")[0] for name in tensors if name.startswith(stem))
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)


def to_ours(released: Mapping[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """The tensors by our names, as far as they are there.

    Raises:
        CheckpointError: a part of one of our tensors is absent, or a name means nothing to us.
    """
    tensors, used = {}, {TIED}
    for ours, parts in names(model).items():
        there = [part for part in parts if part in released]
        if not there:
            continue
        if len(there) < len(parts):
            absent = next(part for part in parts if part not in released)
            raise CheckpointError(
                f"the weights lack {absent}, but have {there[0]}; give the whole file"
            )
        first, *more = (released[part] for part in parts)
        tensors[ours] = torch.cat([first, *more]) if more else first
        used.update(parts)
    strange = [name for name in released if name not in used]
    if strange:
        others = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise CheckpointError(
            f"{strange[0]}{others} is no parameter of LXMERT; give weights of LXMERT"
        )
    return tensors


def to_released(tensors: Mapping[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """The tensors by the released names, with the tied decoder where there is its head."""
    released = {}
    table = names(model)
    for ours, tensor in tensors.items():
        parts = table[ours]
        if len(parts) == 1:
            released[parts[0]] = tensor
            continue
        for part, rows in zip(parts, tensor.chunk(len(parts)), strict=True):
            released[part] = rows.clone()  # files want each tensor in memory of its own
    if not model.token_type:  # theirs add the row of type 0 to every token
        types = "bert.embeddings.token_type_embeddings.weight"
        released[types] = torch.zeros_like(released[types])
    if "cls.predictions.bias" in released:
        released[TIED] = released[WORDS]
    return released


def _pairs(model: ModelConfig) -> Pairs:
    for ours, theirs in SINGLE.items():
        yield ours, (theirs,)
    for ours, theirs in MODULES.items():
        for kind in ("weight", "bias"):
            yield f"{ours}.{kind}", (f"{theirs}.{kind}",)
    stacks = (
        ("language_encoder", "layer", model.num_language_layers),
        ("object_relationship_encoder", "r_layers", model.num_relationship_layers),
    )
    for our_stack, their_stack, depth in stacks:
        for i in range(depth):
            stem = f"bert.encoder.{their_stack}.{i}"
            yield from _layer(
                f"model.{our_stack}.layers.{i}",
                f"{stem}.attention",
                f"{stem}.intermediate",
                f"{stem}.output",
            )
    for i in range(model.num_cross_layers):
        ours, stem = f"model.cross_modality_encoder.layers.{i}", f"bert.encoder.x_layers.{i}"
        cross = f"{stem}.visual_attention"
        yield from _attention(f"{ours}.cross_attention", f"{cross}.att", f"{cross}.output")
        for branch, short in (("language", "lang"), ("vision", "visn")):
            yield from _layer(
                f"{ours}.{branch}",
                f"{stem}.{short}_self_att",
                f"{stem}.{short}_inter",
                f"{stem}.{short}_output",
            )


def _layer(ours: str, attention: str, inter: str, output: str) -> Pairs:
    """A self-attention block and the feed-forward block behind it."""
    yield from _attention(f"{ours}.attention", f"{attention}.self", f"{attention}.output")
    for kind in ("weight", "bias"):
        yield f"{ours}.feed_forward.expand.{kind}", (f"{inter}.dense.{kind}",)
        yield f"{ours}.feed_forward.contract.{kind}", (f"{output}.dense.{kind}",)
        yield f"{ours}.feed_forward.layer_norm.{kind}", (f"{output}.LayerNorm.{kind}",)


def _attention(ours: str, attention: str, output: str) -> Pairs:
    """An attention block, whose three projections we keep in one tensor."""
    for kind in ("weight", "bias"):
        yield (
            f"{ours}.query_key_value.{kind}",
            tuple(f"{attention}.{part}.{kind}" for part in ("query", "key", "value")),
        )
        yield f"{ours}.output.{kind}", (f"{output}.dense.{kind}",)
        yield f"{ours}.layer_norm.{kind}", (f"{output}.LayerNorm.{kind}",)
