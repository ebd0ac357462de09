"""Attention with one fused projection (paper, section 2.2).

Shapes: B pairs, L positions of a sequence (T tokens or O objects), H hidden, N heads,
D = H / N head size.
"""

from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from lxmert_dist.config.sections import ModelConfig


class Projection(NamedTuple):
    """Queries, keys and values of one sequence."""

    query: Float[Tensor, "B N L D"]
    key: Float[Tensor, "B N L D"]
    value: Float[Tensor, "B N L D"]


class Attention(nn.Module):
    """Scaled dot-product attention and its post-norm output block.

    The projection is apart from the look-up, so that a sequence which both asks and is asked is
    projected once.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Build the fused projection (rows: query, key, value) and the output block."""
        super().__init__()
        self.num_heads = config.num_heads
        self.attention_dropout = config.attention_dropout
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def project(self, hidden: Float[Tensor, "B L H"]) -> Projection:
        """Queries, keys and values of a sequence, from one matrix product."""
        fused: Tensor = self.query_key_value(hidden)  # (B, L, 3H)
        parts = fused.view(*hidden.shape[:2], 3, self.num_heads, -1)  # (B, L, 3, N, D)
        return Projection(*parts.transpose(1, 3).unbind(2))

    def attend(
        self,
        hidden: Float[Tensor, "B L H"],
        query: Float[Tensor, "B N L D"],
        key: Float[Tensor, "B N K D"],
        value: Float[Tensor, "B N K D"],
        key_mask: Bool[Tensor, "B K"] | None,
    ) -> Float[Tensor, "B L H"]:
        """LayerNorm(hidden + Dropout(W softmax(Q K^T / sqrt(D)) V + b)).

        Args:
            hidden: the residual stream of the asking sequence.
            query: projected from ``hidden``.
            key: of the sequence that is asked.
            value: of the sequence that is asked.
            key_mask: True where a key may be looked at, at least one in every row; None is all.
        """
        mixed = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if key_mask is None else key_mask[:, None, None, :],
            dropout_p=self.attention_dropout if self.training else 0.0,
        )  # (B, N, L, D)
        update = self.dropout(self.output(mixed.transpose(1, 2).flatten(2)))  # (B, L, H)
        result: Tensor = self.layer_norm(hidden + update)
        return result


class SelfAttention(Attention):
    """A sequence looks at itself."""

    def forward(
        self, hidden: Float[Tensor, "B L H"], mask: Bool[Tensor, "B L"] | None
    ) -> Float[Tensor, "B L H"]:
        """One block; ``mask`` is True at the positions that may be looked at."""
        return self.attend(hidden, *self.project(hidden), mask)


class CrossAttention(Attention):
    """Two sequences look at each other through the same weights."""

    def forward(
        self,
        language: Float[Tensor, "B T H"],
        vision: Float[Tensor, "B O H"],
        language_mask: Bool[Tensor, "B T"] | None,
        vision_mask: Bool[Tensor, "B O"] | None,
        *,
        need_vision: bool = True,
    ) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B O H"]]:
        """Both directions, each from the sequences as they came in.

        Returns:
            The language that looked at the vision, and the vision that looked at the language;
            the latter as it came in where ``need_vision`` is off.
        """
        words, objects = self.project(language), self.project(vision)
        new_language = self.attend(language, words.query, objects.key, objects.value, vision_mask)
        if not need_vision:
            return new_language, vision
        new_vision = self.attend(vision, objects.query, words.key, words.value, language_mask)
        return new_language, new_vision
