"""The backbone: two embeddings, three encoders and a pooler (paper, section 2).

Shapes: B pairs, W packed word pieces, I images, O objects of an image, H hidden, V vocabulary,
M word pieces and R objects that are read.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from lxmert_dist.config.sections import ModelConfig
from lxmert_dist.model.attention import Layout
from lxmert_dist.model.embeddings import TextEmbedding, VisualEmbedding
from lxmert_dist.model.initialization import initialize
from lxmert_dist.model.layers import CrossModalityEncoder, Encoder
from lxmert_dist.model.linear import Linear
from lxmert_dist.schema import DataSpec, ModelInputs


class EncoderOutput(NamedTuple):
    """What the heads read."""

    language: Float[Tensor, "M H"]
    """The word pieces that were asked for; else all, packed (W, H)."""
    vision: Float[Tensor, "R H"] | None
    """The objects that were asked for; else all of every pair (B * O, H)."""
    pooled: Float[Tensor, "B H"]
    """tanh of a projection of [CLS], in (-1, 1)."""
    word_table: Float[Tensor, "V H"]
    """The word embedding, with which masked word pieces are decoded."""


class Pooler(nn.Module):
    """tanh(W x + b) of the first token."""

    def __init__(self, config: ModelConfig) -> None:
        """Build the projection."""
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)

    def forward(self, first: Float[Tensor, "B H"]) -> Float[Tensor, "B H"]:
        """Pool the sentences by their first tokens."""
        return torch.tanh(self.dense(first))


class LxmertModel(nn.Module):
    """LXMERT without heads."""

    def __init__(self, config: ModelConfig, spec: DataSpec) -> None:
        """Build the backbone with fresh weights, drawn from torch's global generator.

        Args:
            config: widths, depths and dropout.
            spec: vocabulary and feature width, as the store has them.
        """
        super().__init__()
        self.text_embedding = TextEmbedding(config, spec)
        self.visual_embedding = VisualEmbedding(config, spec)
        self.language_encoder = Encoder(config, config.num_language_layers)
        self.object_relationship_encoder = Encoder(config, config.num_relationship_layers)
        self.cross_modality_encoder = CrossModalityEncoder(config)
        self.pooler = Pooler(config)
        initialize(self, config.initializer_range)
        if config.zero_padding_rows:
            self.text_embedding.clear_padding_rows(spec.pad_id)

    def recompute_activations(self) -> None:
        """Trade time for memory: the backward pass computes the inside of each layer again."""
        self.language_encoder.recompute = True
        self.object_relationship_encoder.recompute = True
        self.cross_modality_encoder.recompute = True

    def forward(
        self,
        inputs: ModelInputs,
        *,
        tokens: Int64[Tensor, " M"] | None = None,
        objects: Int64[Tensor, " R"] | None = None,
        need_vision: bool = True,
    ) -> EncoderOutput:
        """Encode a batch.

        Args:
            inputs: features and boxes may be of any float dtype; they are cast to the weights'.
            tokens: the packed word pieces that a head reads; None is all.
            objects: the objects (rows of B * O) that a head reads; None is all.
            need_vision: off where only ``pooled`` or ``language`` is read; spares the last cross
                layer's visual branch (``last_visual_branch`` of the cross-modality encoder).
        """
        num_images, num_objects = inputs.roi_features.shape[:2]
        num_pairs, length = inputs.attention_mask.shape
        words = Layout(num_pairs, length, inputs.slots, inputs.attention_mask)
        object_mask = inputs.object_mask
        images = Layout(num_images, num_objects, mask=object_mask)
        shared = num_images < num_pairs

        language, word_table = self.text_embedding(
            inputs.token_ids, inputs.slots % length
        )  # (W, H)
        language = self.language_encoder(language, words)

        vision = self.visual_embedding(
            inputs.roi_features.to(language.dtype).flatten(0, 1),
            inputs.boxes.to(language.dtype).flatten(0, 1),
        )  # (I * O, H)
        vision = self.object_relationship_encoder(vision, images)

        # Pairs of one image part here: the first cross layer reads an image's objects once.
        if object_mask is not None and shared:
            object_mask = object_mask.index_select(0, inputs.image_index)
        first = inputs.first_tokens
        language, vision = self.cross_modality_encoder(
            language,
            vision,
            words,
            Layout(num_pairs, num_objects, mask=object_mask),
            image_index=inputs.image_index if shared else None,
            word_rows=None if tokens is None else torch.cat([first, tokens]),
            object_rows=objects,
            need_vision=need_vision,
        )
        if tokens is None:
            first_states = language.index_select(0, first)
        else:
            first_states, language = language.split([num_pairs, len(tokens)])
        return EncoderOutput(
            language, vision if need_vision else None, self.pooler(first_states), word_table
        )
