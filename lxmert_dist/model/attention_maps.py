"""What every layer and head looks at, of a model as it is.

Hooks compute the weights beside the model, from what its attention modules are called with: the
model's own path has no switch for it, and its outputs stay the same.

Shapes: B pairs, N heads, T tokens, O objects of an image; L language, R object-relationship and X
cross layers.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lxmert_dist.model.attention import (
    Attention,
    CrossAttention,
    Layout,
    Projection,
    SelfAttention,
)
from lxmert_dist.model.layers import CrossLayer, Layer
from lxmert_dist.model.lxmert import EncoderOutput, LxmertModel
from lxmert_dist.schema import ModelInputs


@dataclass(frozen=True)
class AttentionMaps:
    """softmax(Q K^T / sqrt(D)) of every layer and head, float32 on the model's device.

    A row of what looks sums to 1 over what is looked at. Padding is looked at by nothing, and
    where padding would look, the row is zero.
    """

    language: Float[Tensor, "L B N T T"]
    vision: Float[Tensor, "R B N O O"]
    word_to_region: Float[Tensor, "X B N T O"]
    """Words look at objects: what brings vision to language."""
    region_to_word: Float[Tensor, "X B N O T"]
    """Objects look at words. That of the last layer takes no part in answers."""
    cross_language: Float[Tensor, "X B N T T"]
    """Self-attention of the language behind the cross-attention of the layer."""
    cross_vision: Float[Tensor, "X B N O O"]
    """That of the vision; in the last layer it takes no part in answers."""
    words: Bool[Tensor, "B T"]
    """True at real tokens."""
    objects: Bool[Tensor, "B O"]
    """True at real objects."""

    def of_pair(self, pair: int) -> "AttentionMaps":
        """One pair (B = 1) without its padding, on the CPU."""
        words, objects = self.words[pair], self.objects[pair]
        real = {"T": words.nonzero().flatten(), "O": objects.nonzero().flatten()}
        cut = {
            name: getattr(self, name)[:, pair : pair + 1]
            .index_select(3, real[rows])
            .index_select(4, real[columns])
            .cpu()
            for name, (rows, columns) in _SIDES.items()
        }
        return AttentionMaps(
            **cut, words=words[real["T"]][None].cpu(), objects=objects[real["O"]][None].cpu()
        )


_SIDES = {
    "language": ("T", "T"),
    "vision": ("O", "O"),
    "word_to_region": ("T", "O"),
    "region_to_word": ("O", "T"),
    "cross_language": ("T", "T"),
    "cross_vision": ("O", "O"),
}
"""What looks, and at what: tokens or objects."""


@torch.no_grad()
def read_attention(model: LxmertModel, inputs: ModelInputs) -> tuple[EncoderOutput, AttentionMaps]:
    """Encode a batch without dropout, and say what was looked at.

    Args:
        model: any; it is left as it was, training or not.
        inputs: pairs may share images.

    Returns:
        What the model says, with all words and objects, and the attention of every pair.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in _SIDES}
    with _without_dropout(model), _watched(model, found):
        encoded = model(inputs)
    pairs, tokens = inputs.attention_mask.shape
    images, objects = inputs.roi_features.shape[:2]
    heads = found["word_to_region"][0].shape[1]
    masks = inputs.object_mask
    if masks is None:
        masks = inputs.image_index.new_ones(images, objects).bool()
    of_words, of_objects = inputs.attention_mask, masks.index_select(0, inputs.image_index)
    # Objects first look at each other once an image, whatever the number of its pairs.
    found["vision"] = [weights[inputs.image_index] for weights in found["vision"]]
    sides = {"T": (tokens, of_words), "O": (objects, of_objects)}
    maps = {}
    for name, (asking, asked) in _SIDES.items():
        length, real = sides[asking]
        empty = real.new_zeros(0, pairs, heads, length, sides[asked][0], dtype=torch.float32)
        layers = torch.stack(found[name]) if found[name] else empty
        maps[name] = layers * real[:, None, :, None]
    return encoded, AttentionMaps(**maps, words=of_words, objects=of_objects)


@contextmanager
def _watched(model: LxmertModel, found: dict[str, list[Tensor]]) -> Iterator[None]:
    """While this lasts, every attention module adds its weights to the list of its kind."""

    def of_itself(kind: str) -> Callable[..., None]:
        def see(module: Attention, hidden: Tensor, layout: Layout, *_: Any) -> None:
            projection = module.project(hidden, layout)
            found[kind].append(_weights(projection, projection, layout.mask))

        return see

    def of_both(
        module: CrossAttention,
        language: Tensor,
        vision: Tensor,
        words: Layout,
        objects: Layout,
        *,
        image_index: Tensor | None,
        need_vision: bool,
    ) -> None:
        of_words, of_objects = module.project_both(language, vision, words, objects, image_index)
        found["word_to_region"].append(_weights(of_words, of_objects, objects.mask))
        found["region_to_word"].append(_weights(of_objects, of_words, words.mask))

    with ExitStack() as hooks:

        def watch(module: nn.Module, see: Callable[..., None]) -> None:
            def before(module: nn.Module, args: Any, options: Any) -> None:
                see(module, *args, **options)

            hooks.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)

        for layer in model.language_encoder.layers:
            watch(_self_attention(layer), of_itself("language"))
        for layer in model.object_relationship_encoder.layers:
            watch(_self_attention(layer), of_itself("vision"))
        for layer in model.cross_modality_encoder.layers:
            assert isinstance(layer, CrossLayer)
            watch(layer.cross_attention, of_both)
            watch(layer.language.attention, of_itself("cross_language"))
            watch(layer.vision.attention, of_itself("cross_vision"))
        yield


def _self_attention(layer: nn.Module) -> SelfAttention:
    assert isinstance(layer, Layer)
    return layer.attention


def _weights(
    asking: Projection, asked: Projection, mask: Bool[Tensor, "B K"] | None
) -> Float[Tensor, "B N L K"]:
    """The weights of ``Attention.look``, in float32 whatever the model computes in."""
    query, key = asking.query.float(), asked.key.float()
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5  # (B, N, L, K)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], float("-inf"))
    return torch.softmax(scores, -1)


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
