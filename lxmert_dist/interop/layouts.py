"""Which program's weights these are, told by their names; all become the released names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lxmert_dist.errors import CheckpointError
from lxmert_dist.interop.names import TIED, WORDS, depth

BertLayers = Literal["lower", "upper"]

_TASK = "lxrt_encoder.model."
_BARE = ("embeddings.", "encoder.", "pooler.")
_BERT_LAYER = "bert.encoder.layer."
_OLD = {".gamma": ".weight", ".beta": ".bias"}
"""What the first BERT archives called a norm's parameters."""


@dataclass(frozen=True)
class Released:
    """Tensors by the released names (see ``names.py``)."""

    label: str
    """What they were recognised as."""
    tensors: Mapping[str, Tensor]
    is_bert: bool = False
    dropped: tuple[str, ...] = ()
    """Names in the file that LXMERT has no use for."""


def is_ours(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of a task of ours."""
    return any(name.startswith("model.text_embedding.") for name in tensors)


def recognise(found: Mapping[str, Tensor], place: str) -> Released:
    """Rename to the released names.

    Raises:
        CheckpointError: the names are of no program that is known.
    """
    tensors = {_strip(name): tensor for name, tensor in found.items()}
    if any(name.startswith(_TASK) for name in tensors):
        label, tensors = _fine_tuned(tensors, place)
    elif any(name.startswith("lxmert.") for name in tensors):
        label = "Hugging Face LXMERT"
        tensors = {_prefixed(n, "lxmert.", "bert."): t for n, t in tensors.items()}
    elif any(name.startswith(_BARE) for name in tensors):
        label = "backbone of Hugging Face"
        tensors = {"bert." + n if n.startswith(_BARE) else n: t for n, t in tensors.items()}
    else:
        label = "released LXMERT"
    if WORDS not in tensors:
        raise CheckpointError(
            f"{place} is not recognised: neither LXMERT (released code, Hugging Face), nor BERT, "
            f"nor ours: its first tensor is {next(iter(found))}; name a file of one of these"
        )
    tensors, dropped = _without_copies(tensors, place)
    odd = next((name for name, t in tensors.items() if not t.is_floating_point()), None)
    if odd:
        raise CheckpointError(
            f"{place}: {odd} is {tensors[odd].dtype} and not floating-point; give the weights "
            "before they were quantised"
        )
    is_bert = not any(name.startswith("bert.encoder.x_layers.") for name in tensors)
    if is_bert and any(".visn_fc." in name or ".r_layers." in name for name in tensors):
        raise CheckpointError(f"{place} has no cross-modality layers; give the whole file")
    return Released("BERT" if is_bert else label, tensors, is_bert, dropped)


def take_bert_layers(found: Released, count: int, which: BertLayers) -> Released:
    """The part of BERT that LXMERT starts from: ``count`` layers, and all that is no layer.

    The released code takes the lower nine; the paper's prose says the top nine.

    Raises:
        CheckpointError: there are not so many layers.
    """
    there = depth(found.tensors, "layer")
    if count > there:
        raise CheckpointError(
            f"this BERT has {there} layers, not {count}; give --language-layers {there} or fewer"
        )
    first = 0 if which == "lower" else there - count
    tensors, dropped = {}, list(found.dropped)
    for name, tensor in found.tensors.items():
        if not name.startswith(_BERT_LAYER):
            tensors[name] = tensor
            continue
        number, _, rest = name.removeprefix(_BERT_LAYER).partition(".")
        if number.isdecimal() and first <= int(number) < first + count:
            tensors[f"{_BERT_LAYER}{int(number) - first}.{rest}"] = tensor
        else:
            dropped.append(name)
    label = f"BERT, layers {first} to {first + count - 1} of {there}"
    return Released(label, tensors, True, tuple(dropped))


def _strip(name: str) -> str:
    """Without what DataParallel adds, and without the old words of norms."""
    name = name.removeprefix("module.").replace(f"{_TASK}module.", _TASK)
    for old, new in _OLD.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _prefixed(name: str, old: str, new: str) -> str:
    return new + name.removeprefix(old) if name.startswith(old) else name


def _fine_tuned(tensors: Mapping[str, Tensor], place: str) -> tuple[str, dict[str, Tensor]]:
    """A snapshot of the released VQA, GQA or NLVR2 code."""
    renamed = {name.removeprefix(_TASK): tensor for name, tensor in tensors.items()}
    first = renamed.get("logit_fc.0.weight")
    if first is None or WORDS not in renamed:
        raise CheckpointError(
            f"{place} is a fine-tuned snapshot without its head or embeddings; "
            "give the whole snapshot"
        )
    images = first.shape[1] / renamed[WORDS].shape[1]
    if images not in (1, 2):
        raise CheckpointError(
            f"{place}: its head reads {first.shape[1]} features; VQA and GQA read "
            f"{renamed[WORDS].shape[1]}, NLVR2 twice as many: give a snapshot of one of these"
        )
    head = "answer_head." if images == 1 else "pair_head."
    label = "snapshot of VQA or GQA" if images == 1 else "snapshot of NLVR2"
    return f"released LXMERT, {label}", {
        head + name if name.startswith("logit_fc.") else name: tensor
        for name, tensor in renamed.items()
    }


def _without_copies(
    tensors: Mapping[str, Tensor], place: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Drop what says nothing: positions counted up, and the copies of tied parameters.

    Raises:
        CheckpointError: a copy differs, so the model does not tie what LXMERT ties.
    """
    copies = {TIED: WORDS, "cls.predictions.decoder.bias": "cls.predictions.bias"}
    kept = {name: t for name, t in tensors.items() if not name.endswith(".position_ids")}
    for name, original in copies.items():
        if name in kept and original in kept:
            if not torch.equal(kept[name], kept[original]):
                raise CheckpointError(
                    f"{place}: {name} differs from {original}, which LXMERT ties; give weights of "
                    "LXMERT"
                )
            del kept[name]
    return kept, tuple(name for name in tensors if name not in kept)
