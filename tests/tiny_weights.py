"""Tiny weights of every program, all of their values random."""

import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForPreTraining,
    LxmertConfig,
    LxmertModel,
    PreTrainedModel,
)

from lxmert_dist.interop.card import Conversion
from lxmert_dist.interop.probe import largest
from tiny_store import SPECIAL, WORDS

VOCAB = len(SPECIAL) + len(WORDS)
ANSWERS = ["yes", "no", "3", "circle", "gray", "blue", "square"]

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}


def worst(conversion: Conversion) -> float:
    """The largest difference that a conversion found."""
    return largest(conversion.differences)[1]


def theirs(kind: type[PreTrainedModel], seed: int = 0, **settings: object) -> PreTrainedModel:
    """A model of transformers' with random values in every parameter, norms and biases too."""
    torch.manual_seed(seed)
    if kind is BertForPreTraining:
        config = BertConfig(**{**SIZES, "num_hidden_layers": 4, **settings})
    else:
        sizes = {
            "l_layers": 2,
            "r_layers": 1,
            "x_layers": 2,
            "visual_feat_dim": 12,
            "num_object_labels": 9,
            "num_attr_labels": 6,
            "num_qa_labels": len(ANSWERS),
        }
        config = LxmertConfig(**{**SIZES, **sizes, **settings})
    model = kind(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = parameter.ndim == 1 and name.endswith("weight")
            parameter.normal_(1.0 if is_norm else 0.0, 0.3)
    return model


def released(model: PreTrainedModel, prefix: str = "") -> dict[str, Tensor]:
    """Their tensors as a pretraining snapshot of the released code names them (spec 6.2)."""
    return {
        prefix + name.replace("lxmert.", "bert.", 1): tensor
        for name, tensor in model.state_dict().items()
    }


def fine_tuned(model: PreTrainedModel, inside: str = "lxrt_encoder.model.") -> dict[str, Tensor]:
    """Their tensors as a VQA or GQA snapshot of the released code names them (spec 6.3)."""
    return {
        name.replace("lxmert.", f"{inside}bert.", 1).removeprefix("answer_head."): tensor
        for name, tensor in model.state_dict().items()
    }


def two_images(seed: int = 0) -> dict[str, Tensor]:
    """An NLVR2 snapshot of the released code: the backbone, and a head over two images."""
    backbone = theirs(LxmertModel, seed).state_dict()
    shapes = {"0": (32, 32), "2": (32,), "3": (2, 32)}
    head = {}
    for number, shape in shapes.items():
        head[f"logit_fc.{number}.weight"] = torch.randn(shape)
        head[f"logit_fc.{number}.bias"] = torch.randn(shape[:1])
    return {f"lxrt_encoder.model.bert.{name}": tensor for name, tensor in backbone.items()} | head
