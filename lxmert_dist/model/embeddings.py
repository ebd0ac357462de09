"""What the encoders start from: word pieces and objects (paper, section 2.1).

Shapes: W packed word pieces, U objects of all images, F feature width, H hidden,
V vocabulary.
"""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from lxmert_dist.config.sections import ModelConfig
from lxmert_dist.model.dropout import Dropout
from lxmert_dist.model.linear import Linear
from lxmert_dist.schema import DataSpec


class _TiedLookup(Function):
    """A look-up that adds its gradient to that of the decoder, which uses the same weights.

    Left to autograd, the look-up's gradient is a second table of zeros (94 MB at 30,522 x 768), and
    its sum with the decoder's a third.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, token_ids: Tensor, padding_id: int | None
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(token_ids)
        ctx.padding_id, ctx.shape = padding_id, weight.shape
        ctx.set_materialize_grads(False)
        return weight.index_select(0, token_ids), weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_rows: Tensor | None, of_weight: Tensor | None
    ) -> tuple[Tensor | None, None, None]:
        (token_ids,) = ctx.saved_tensors
        if of_rows is None:
            return of_weight, None, None
        if of_weight is None:
            of_weight = of_rows.new_zeros(ctx.shape)
        if ctx.padding_id is not None:
            of_rows = of_rows.masked_fill((token_ids == ctx.padding_id)[:, None], 0)
        # Not index_add: on GPUs its sums come in any order.
        return of_weight.index_put_((token_ids,), of_rows, accumulate=True), None, None


class WordEmbedding(nn.Embedding):
    """The table of word pieces, which also decodes them."""

    def forward(  # type: ignore[override]
        self, token_ids: Int64[Tensor, " W"]
    ) -> tuple[Float[Tensor, "W H"], Float[Tensor, "V H"]]:
        """The rows of some word pieces, and the whole table for the decoder."""
        if torch.compiler.is_compiling():
            return functional.embedding(token_ids, self.weight, self.padding_idx), self.weight
        rows, table = _TiedLookup.apply(self.weight, token_ids, self.padding_idx)
        return rows, table


class TextEmbedding(nn.Module):
    """Dropout(LayerNorm(word + position + token type 0))."""

    def __init__(self, config: ModelConfig, spec: DataSpec) -> None:
        """Build the three tables.

        With ``trainable_padding_rows`` off, position 0, token type 0 and the look-up of [PAD]
        pass no gradient, as in the released code; [PAD] then learns only as an output word.
        Without ``token_type`` its table is kept, and takes no part.
        """
        super().__init__()
        trainable, width = config.trainable_padding_rows, config.hidden_size
        first = None if trainable else 0
        self.word = WordEmbedding(
            spec.vocab_size, width, padding_idx=None if trainable else spec.pad_id
        )
        self.position = nn.Embedding(config.max_positions, width, padding_idx=first)
        self.token_type = nn.Embedding(config.token_types, width, padding_idx=first)
        self.token_type.requires_grad_(config.token_type)
        self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout)

    @torch.no_grad()
    def clear_padding_rows(self, pad_id: int) -> None:
        """Set to zero what Hugging Face takes for padding: [PAD], position 0, token type 0."""
        for table, row in ((self.word, pad_id), (self.position, 0), (self.token_type, 0)):
            table.weight[row].zero_()

    def forward(
        self, token_ids: Int64[Tensor, " W"], positions: Int64[Tensor, " W"]
    ) -> tuple[Float[Tensor, "W H"], Float[Tensor, "V H"]]:
        """Embed ids in [0, vocab_size) at positions in [0, max_positions).

        Returns:
            The embedded word pieces, and the word table, with which the masked ones are decoded.
        """
        words, table = self.word(token_ids)  # (W, H), (V, H)
        embedded = words + self.position(positions)
        if self.token_type.weight.requires_grad:
            embedded = embedded + self.token_type(torch.zeros_like(positions))
        return self.dropout(self.layer_norm(embedded)), table


class VisualEmbedding(nn.Module):
    """Dropout of the mean of a normalised feature and a normalised box projection."""

    def __init__(self, config: ModelConfig, spec: DataSpec) -> None:
        """Build the two projections, each with a layer norm of its own."""
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.feature = Linear(spec.feature_dim, width)
        self.feature_norm = nn.LayerNorm(width, eps=eps)
        self.box = Linear(4, width)
        self.box_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(
        self, roi_features: Float[Tensor, "U F"], boxes: Float[Tensor, "U 4"]
    ) -> Float[Tensor, "U H"]:
        """Embed objects; boxes are x1, y1, x2, y2 in [0, 1]. Both in the dtype of the weights."""
        features = self.feature_norm(self.feature(roi_features))  # (U, H)
        places = self.box_norm(self.box(boxes))  # (U, H)
        result: Tensor = self.dropout((features + places) / 2)
        return result
