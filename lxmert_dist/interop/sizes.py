"""The sizes of a model: told by its tensors (released names), and by a ``config.json``."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from lxmert_dist.config.sections import ModelConfig
from lxmert_dist.errors import CheckpointError
from lxmert_dist.interop.names import WORDS, depth

HEAD_SIZE = 64
"""Of an attention head, where nothing says how many there are; so it is in BERT and LXMERT."""

Settings = Mapping[str, Any]
"""A Hugging Face ``config.json``; empty where there is none."""

_DEPTHS = {
    "num_language_layers": ("layer", "l_layers"),
    "num_relationship_layers": ("r_layers", "r_layers"),
    "num_cross_layers": ("x_layers", "x_layers"),
}
"""Ours: the stack's name in the released names, and in a config of LXMERT."""

_SIZES = {
    "vocab_size": (WORDS, 0),
    "feature_dim": ("bert.encoder.visn_fc.visn_fc.weight", 1),
    "num_object_classes": ("obj_predict_head.decoder_dict.obj.weight", 0),
    "num_attribute_classes": ("obj_predict_head.decoder_dict.attr.weight", 0),
    "num_answers": ("answer_head.logit_fc.3.weight", 0),
}
"""Fields of ``DataSpec``: the tensor and its axis that show them."""

_FIXED = {"visual_pos_dim": 4, "hidden_act": "gelu"}
"""What a config may say of LXMERT and of BERT, and must."""


def infer_sizes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Fields of ``DataSpec``, as far as tensors show them."""
    return {
        name: tensors[tensor].shape[axis]
        for name, (tensor, axis) in _SIZES.items()
        if tensor in tensors
    }


def infer_model(
    tensors: Mapping[str, Tensor], settings: Settings, *, is_bert: bool, num_heads: int | None
) -> ModelConfig:
    """The model settings.

    Args:
        tensors: by the released names.
        settings: say the number of heads, the dropout and the eps, which no tensor shows.
        is_bert: the depth of ``settings`` is not the one that was taken.
        num_heads: overrides; None takes ``settings`` or 64 per head.

    Raises:
        CheckpointError: a tensor that tells a size is absent, or ``settings`` say otherwise.
    """
    for name, value in _FIXED.items():
        if settings.get(name, value) != value:
            raise CheckpointError(
                f"config.json: {name}={settings[name]}; ours is always {value}; give weights of "
                "such a model"
            )
    hidden = _size(tensors, WORDS, 1)
    depths = {name: depth(tensors, stack) for name, (stack, _) in _DEPTHS.items()}
    if is_bert:  # no cross layers to count, but a model has some
        depths = {"num_language_layers": depths["num_language_layers"]}
    for name, there in depths.items():
        claimed = settings.get(_DEPTHS[name][1], there)
        if claimed != there and not is_bert:
            raise CheckpointError(
                f"config.json says {_DEPTHS[name][1]}={claimed}, but there are {there} layers; "
                "correct it, or give the whole file"
            )
    heads = num_heads or settings.get("num_attention_heads") or hidden // HEAD_SIZE
    if not isinstance(heads, int) or heads < 1 or hidden % heads:
        raise CheckpointError(
            f"nothing says how many heads a model of width {hidden} has; give --num-heads"
        )
    table = "bert.embeddings.{}_embeddings.weight"
    tree = {
        "hidden_size": hidden,
        "num_heads": heads,
        "intermediate_size": _size(tensors, _first(tensors, "intermediate.dense.weight"), 0),
        "max_positions": _size(tensors, table.format("position"), 0),
        "token_types": _size(tensors, table.format("token_type"), 0),
        "hidden_dropout": float(settings.get("hidden_dropout_prob", 0.1)),
        "attention_dropout": float(settings.get("attention_probs_dropout_prob", 0.1)),
        "layer_norm_eps": float(settings.get("layer_norm_eps", 1e-12)),
        **depths,
    }
    try:
        return ModelConfig.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(
            f"no LXMERT has these sizes: {first['loc'][0]}: {first['msg']}; give weights of LXMERT"
        ) from error


def _first(tensors: Mapping[str, Tensor], ending: str) -> str:
    """A feed-forward block of any stack; a model without language layers has some elsewhere."""
    endings = (ending, "lang_inter.dense.weight")
    return next((name for name in tensors if name.endswith(endings)), ending)


def _size(tensors: Mapping[str, Tensor], name: str, axis: int) -> int:
    tensor = tensors.get(name)
    if tensor is None or tensor.ndim <= axis:
        raise CheckpointError(f"the weights lack {name}; give the whole file")
    return int(tensor.shape[axis])
