"""The classes of ``transformers``: our settings as theirs, and what they say of the probe.

They are what a conversion is judged by, also for the released code, whose names they share but for
the prefix of the backbone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lxmert_dist.errors import CheckpointError
from lxmert_dist.interop.names import TIED, WORDS
from lxmert_dist.interop.probe import UNEXPLAINED, Outputs, Probe
from lxmert_dist.tasks.weights import Description, Kind

EPS = 1e-12
"""Of every layer norm, built into their code and into the released one. A model that was trained
with another is judged with that one; what opening it without amounts to, is told beside."""

CLASSES: Mapping[Kind, str] = {
    "pretraining": "LxmertForPreTraining",
    "answering": "LxmertForQuestionAnswering",
    "backbone": "LxmertModel",
}
"""What each kind of weights is called there; NLVR2's head has no class."""

ALL_HEADS = frozenset({"cls", "obj_predict_head", "answer_head"})
"""First words of the released names of every head of pretraining."""

_PAIR = tuple(f"pair_head.logit_fc.{i}.{kind}" for i in (0, 2, 3) for kind in ("weight", "bias"))


def config_of(description: Description, heads: frozenset[str]) -> Any:
    """The ``LxmertConfig`` of our settings.

    Args:
        description: sizes that are unknown are those of the published model.
        heads: first words of the released names, ``cls`` and so on.
    """
    from transformers import LxmertConfig

    model, sizes = description.model, description.sizes
    labels = dict(enumerate(description.answers)) or None
    eps = {} if model.layer_norm_eps == EPS else {"layer_norm_eps": model.layer_norm_eps}
    return LxmertConfig(
        vocab_size=sizes["vocab_size"],
        hidden_size=model.hidden_size,
        num_attention_heads=model.num_heads,
        intermediate_size=model.intermediate_size,
        l_layers=model.num_language_layers,
        r_layers=model.num_relationship_layers,
        x_layers=model.num_cross_layers,
        max_position_embeddings=model.max_positions,
        type_vocab_size=model.token_types,
        hidden_dropout_prob=model.hidden_dropout,
        attention_probs_dropout_prob=model.attention_dropout,
        initializer_range=model.initializer_range,
        visual_feat_dim=sizes["feature_dim"],
        num_object_labels=sizes.get("num_object_classes", 1600),
        num_attr_labels=sizes.get("num_attribute_classes", 400),
        num_qa_labels=sizes.get("num_answers", 0) or 9500,
        task_obj_predict="obj_predict_head" in heads,
        task_qa="answer_head" in heads,
        **({"id2label": labels} if labels else {}),
        **eps,
    )


def their_names(released: Mapping[str, Tensor], kind: Kind) -> dict[str, Tensor]:
    """The tensors under the names of the class of ``kind``."""
    prefix = "lxmert." if kind in ("pretraining", "answering") else ""
    return {
        prefix + name.removeprefix("bert.") if name.startswith("bert.") else name: tensor
        for name, tensor in released.items()
        if name not in _PAIR
    }


def outputs_of(
    released: Mapping[str, Tensor],
    description: Description,
    probe: Probe,
    eps: float | None = None,
) -> Outputs:
    """What their class says of the probe with tensors by the released names.

    Args:
        released: the tensors.
        description: what they belong to.
        probe: the input.
        eps: of the layer norms; None takes the description's.

    Raises:
        CheckpointError: a tensor is missing, left over, or of another shape.
    """
    import transformers

    if description.partial:
        return _bert_outputs(released, description, probe)
    tensors = dict(released)
    if "cls.predictions.bias" in tensors:
        tensors[TIED] = tensors[WORDS]
    config = config_of(description, frozenset(name.split(".")[0] for name in tensors))
    with torch.device("meta"):
        model = getattr(transformers, CLASSES.get(description.kind, "LxmertModel"))(config)
    try:
        model.load_state_dict(their_names(tensors, description.kind), assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"transformers cannot load the weights ({' '.join(str(error).split()):.200}); "
            f"{UNEXPLAINED}"
        ) from error
    eps = description.model.layer_norm_eps if eps is None else eps
    found = _outputs(model, probe, eps)
    if description.kind == "pair":
        head = [tensors[name] for name in _PAIR]
        return {**found, "pair": _pair_logits(found["pooled"], head, eps=eps)}
    return found


def outputs_of_directory(folder: Path, kind: Kind, probe: Probe, eps: float = EPS) -> Outputs:
    """What a written directory says of the probe, opened as a user would, but for the eps.

    Raises:
        CheckpointError: parameters are missing or left over.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model, info = getattr(transformers, CLASSES[kind]).from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, local_files_only=True
    )
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[what]:
            raise CheckpointError(
                f"transformers reports {what} {sorted(info[what])[:3]}; {UNEXPLAINED}"
            )
    return _outputs(model, probe, eps)


@torch.no_grad()
def _outputs(model: Any, probe: Probe, eps: float) -> dict[str, Tensor]:
    for module in model.eval().modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = eps
    backbone = getattr(model, "lxmert", model)
    encoded = backbone(
        input_ids=probe.token_ids,
        attention_mask=probe.mask.long(),
        token_type_ids=torch.zeros_like(probe.token_ids),
        visual_feats=probe.roi_features,
        visual_pos=probe.boxes,
    )
    language = encoded.language_output[probe.mask]  # (W, H)
    vision = encoded.vision_output.flatten(0, 1)  # (B * O, H)
    pooled = encoded.pooled_output
    found = {"language": language, "vision": vision, "pooled": pooled}
    if hasattr(model, "cls"):
        found["masked_lm"], found["matching"] = model.cls(language, pooled)
    if hasattr(model, "obj_predict_head"):
        said = model.obj_predict_head(vision)
        found |= {
            "object_label": said["obj"],
            "attribute_label": said["attr"],
            "roi_feature": said["feat"],
        }
    if hasattr(model, "answer_head"):
        found["image_qa"] = model.answer_head(pooled)
    return found


@torch.no_grad()
def _bert_outputs(
    released: Mapping[str, Tensor], description: Description, probe: Probe
) -> Outputs:
    """The layers that were taken, as a BERT of that depth, on the words alone."""
    from transformers import BertConfig, BertForPreTraining

    model = description.model
    bert = BertForPreTraining(
        BertConfig(
            vocab_size=description.sizes["vocab_size"],
            hidden_size=model.hidden_size,
            num_hidden_layers=model.num_language_layers,
            num_attention_heads=model.num_heads,
            intermediate_size=model.intermediate_size,
            max_position_embeddings=model.max_positions,
            type_vocab_size=model.token_types,
            layer_norm_eps=model.layer_norm_eps,
        )
    ).eval()
    copies = {TIED: WORDS, "cls.predictions.decoder.bias": "cls.predictions.bias"}
    tensors = dict(released) | {c: released[o] for c, o in copies.items() if o in released}
    _, unexpected = bert.load_state_dict(tensors, strict=False)
    if unexpected:
        raise CheckpointError(f"transformers' BERT has no {unexpected[0]}; {UNEXPLAINED}")
    encoded = bert.bert(input_ids=probe.token_ids, attention_mask=probe.mask.long())
    language, pooled = encoded.last_hidden_state[probe.mask], encoded.pooler_output
    words, match = bert.cls(language, pooled)
    found = {
        "language": (language, WORDS),
        "pooled": (pooled, "bert.pooler.dense.weight"),
        "masked_lm": (words, "cls.predictions.bias"),
        "matching": (match, "cls.seq_relationship.weight"),
    }
    return {name: value for name, (value, owner) in found.items() if owner in released}


def _pair_logits(pooled: Tensor, head: Sequence[Tensor], *, eps: float) -> Tensor:
    """The head of NLVR2, its tensors in the order of ``_PAIR``: (B, H) to (B / 2, 2)."""
    dense, dense_bias, norm, norm_bias, decoder, decoder_bias = head
    both = pooled.reshape(len(pooled) // 2, -1)  # (B / 2, 2H)
    hidden = functional.gelu(functional.linear(both, dense, dense_bias))
    hidden = functional.layer_norm(hidden, norm.shape, norm, norm_bias, eps)
    return functional.linear(hidden, decoder, decoder_bias)
