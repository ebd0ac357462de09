"""What the encoders start from: word pieces and objects (paper, section 2.1).

Shapes: B pairs, T tokens, O objects, F feature width, H hidden.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from lxmert_dist.config.sections import ModelConfig
from lxmert_dist.schema import DataSpec


class TextEmbedding(nn.Module):
    """Dropout(LayerNorm(word + position + token type 0))."""

    def __init__(self, config: ModelConfig, spec: DataSpec) -> None:
        """Build the three tables.

        With ``trainable_padding_rows`` off, position 0, token type 0 and the look-up of [PAD]
        pass no gradient, as in the released code; [PAD] then learns only as an output word.
        """
        super().__init__()
        trainable, width = config.trainable_padding_rows, config.hidden_size
        first = None if trainable else 0
        self.word = nn.Embedding(
            spec.vocab_size, width, padding_idx=None if trainable else spec.pad_id
        )
        self.position = nn.Embedding(config.max_positions, width, padding_idx=first)
        self.token_type = nn.Embedding(config.token_types, width, padding_idx=first)
        self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, token_ids: Int64[Tensor, "B T"]) -> Float[Tensor, "B T H"]:
        """Embed ids in [0, vocab_size); T is at most ``max_positions``."""
        positions = torch.arange(token_ids.shape[1], device=token_ids.device)  # (T,)
        embedded = (
            self.word(token_ids)  # (B, T, H)
            + self.position(positions)  # (T, H)
            + self.token_type(torch.zeros_like(positions))  # (T, H)
        )
        result: Tensor = self.dropout(self.layer_norm(embedded))
        return result


class VisualEmbedding(nn.Module):
    """Dropout of the mean of a normalised feature and a normalised box projection."""

    def __init__(self, config: ModelConfig, spec: DataSpec) -> None:
        """Build the two projections, each with a layer norm of its own."""
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.feature = nn.Linear(spec.feature_dim, width)
        self.feature_norm = nn.LayerNorm(width, eps=eps)
        self.box = nn.Linear(4, width)
        self.box_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(
        self, roi_features: Float[Tensor, "B O F"], boxes: Float[Tensor, "B O 4"]
    ) -> Float[Tensor, "B O H"]:
        """Embed objects; boxes are x1, y1, x2, y2 in [0, 1]. Both in the dtype of the weights."""
        features = self.feature_norm(self.feature(roi_features))  # (B, O, H)
        places = self.box_norm(self.box(boxes))  # (B, O, H)
        result: Tensor = self.dropout((features + places) / 2)
        return result
