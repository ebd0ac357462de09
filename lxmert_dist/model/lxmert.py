"""The backbone: two embeddings, three encoders and a pooler (paper, section 2).

Shapes: B pairs, T tokens, O objects, H hidden.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lxmert_dist.config.sections import ModelConfig
from lxmert_dist.model.embeddings import TextEmbedding, VisualEmbedding
from lxmert_dist.model.initialization import initialize
from lxmert_dist.model.layers import CrossModalityEncoder, Encoder
from lxmert_dist.schema import DataSpec, ModelInputs


class EncoderOutput(NamedTuple):
    """What the heads read; ``vision`` is None where it was not needed."""

    language: Float[Tensor, "B T H"]
    vision: Float[Tensor, "B O H"] | None
    pooled: Float[Tensor, "B H"]
    """tanh of a projection of [CLS], in (-1, 1)."""


class Pooler(nn.Module):
    """tanh(W x + b) of the first token."""

    def __init__(self, config: ModelConfig) -> None:
        """Build the projection."""
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, language: Float[Tensor, "B T H"]) -> Float[Tensor, "B H"]:
        """Pool the sentences."""
        return torch.tanh(self.dense(language[:, 0]))


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

    @property
    def word_weight(self) -> Float[Tensor, "V H"]:
        """The word embedding, which the masked-language head decodes with."""
        return self.text_embedding.word.weight

    def forward(
        self,
        inputs: ModelInputs,
        object_mask: Bool[Tensor, "B O"] | None = None,
        *,
        need_vision: bool = True,
    ) -> EncoderOutput:
        """Encode a batch.

        Args:
            inputs: features and boxes may be of any float dtype; they are cast to the weights'.
            object_mask: True at real objects, at least one a row; None, the norm, is all.
            need_vision: off where only ``pooled`` or ``language`` is read; spares the last cross
                layer's visual branch (``last_visual_branch`` of the cross-modality encoder).
        """
        language = self.text_embedding(inputs.token_ids)  # (B, T, H)
        vision = self.visual_embedding(
            inputs.roi_features.to(language.dtype), inputs.boxes.to(language.dtype)
        )  # (B, O, H)
        language = self.language_encoder(language, inputs.attention_mask)
        vision = self.object_relationship_encoder(vision, object_mask)
        language, vision = self.cross_modality_encoder(
            language, vision, inputs.attention_mask, object_mask, need_vision=need_vision
        )
        return EncoderOutput(language, vision, self.pooler(language))
