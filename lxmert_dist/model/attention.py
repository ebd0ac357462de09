"""Attention with one fused projection (paper, section 2.2).

Sequences come as flat rows: (W, H) packed word pieces, or (I * O, H) objects. Only the attention
weights themselves are computed on padded sentences; every matrix of the model sees packed rows.

Shapes: B pairs, L positions of a sequence (T tokens or O objects), K positions of the one that is
asked, W packed word pieces, H hidden, N heads, D = H / N head size.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from lxmert_dist.config.sections import ModelConfig
from lxmert_dist.model.dropout import Dropout
from lxmert_dist.model.linear import Linear
from lxmert_dist.model.packing import pad, unpad

Rows = Int64[Tensor, " R"]


@dataclass(frozen=True)
class Layout:
    """How the flat rows of a sequence make a batch of sequences.

    ``slots``: as in :class:`~lxmert_dist.schema.ModelInputs`; None where nothing is padded.
    ``mask``: True at the positions that may be looked at, at least one in each row; None is all.
    """

    batch: int
    length: int
    slots: Int64[Tensor, " W"] | None = None
    mask: Bool[Tensor, "B L"] | None = None


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
        self.query_key_value = Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention_dropout = Dropout(config.attention_dropout)
        self.dropout = Dropout(config.hidden_dropout)

    def project(self, hidden: Float[Tensor, "W H"], layout: Layout) -> Projection:
        """Queries, keys and values of a sequence, from one matrix product."""
        fused: Tensor = self.query_key_value(hidden)  # (W, 3H)
        if layout.slots is not None:
            fused = pad(fused, layout.slots, layout.batch * layout.length)  # (B * L, 3H)
        parts = fused.view(layout.batch, layout.length, 3, self.num_heads, -1)  # (B, L, 3, N, D)
        return Projection(*parts.transpose(1, 3).unbind(2))

    def look(
        self,
        asking: Projection,
        asked: Projection,
        layout: Layout,
        mask: Bool[Tensor, "B K"] | None,
    ) -> Float[Tensor, "W H"]:
        """softmax(Q K^T / sqrt(D)) V, as rows of the asking sequence, whose layout is given."""
        mixed = _mix(asking.query, asked.key, asked.value, mask, self.attention_dropout)
        rows = mixed.transpose(1, 2).flatten(2).flatten(0, 1)  # (B * L, H)
        return rows if layout.slots is None else unpad(rows, layout.slots)

    def add(
        self, hidden: Float[Tensor, "R H"], looked: Float[Tensor, "R H"]
    ) -> Float[Tensor, "R H"]:
        """LayerNorm(hidden + Dropout(W looked + b)), row by row."""
        result: Tensor = self.layer_norm(hidden + self.dropout(self.output(looked)))
        return result


class SelfAttention(Attention):
    """A sequence looks at itself."""

    def forward(
        self, hidden: Float[Tensor, "W H"], layout: Layout, rows: Rows | None = None
    ) -> Float[Tensor, "R H"]:
        """One block; all rows look, and those of ``rows`` (None is all) come out."""
        projection = self.project(hidden, layout)
        looked = self.look(projection, projection, layout, layout.mask)
        if rows is not None:
            hidden, looked = hidden.index_select(0, rows), looked.index_select(0, rows)
        return self.add(hidden, looked)


class CrossAttention(Attention):
    """Two sequences look at each other through the same weights."""

    def forward(
        self,
        language: Float[Tensor, "W H"],
        vision: Float[Tensor, "V H"],
        words: Layout,
        objects: Layout,
        *,
        need_vision: bool = True,
        image_index: Int64[Tensor, " B"] | None = None,
    ) -> tuple[Float[Tensor, "W H"], Float[Tensor, "V2 H"]]:
        """Both directions, each from the sequences as they came in.

        Args:
            language: packed word pieces.
            vision: objects of every pair; of every image where ``image_index`` is given.
            words: layout of the language.
            objects: layout of the objects of every pair.
            need_vision: off spares the direction from vision to language.
            image_index: the image of each pair; projects the objects of an image once for all its
                pairs.

        Returns:
            The language that looked at the vision, and the vision that looked at the language;
            the latter as it came in where ``need_vision`` is off.
        """
        of_words, of_objects = self.project_both(language, vision, words, objects, image_index)
        if image_index is not None:
            vision = spread(vision, objects.length, image_index)
        looked = self.look(of_words, of_objects, words, objects.mask)
        new_language = self.add(language, looked)
        if not need_vision:
            return new_language, vision
        looked = self.look(of_objects, of_words, objects, words.mask)
        return new_language, self.add(vision, looked)

    def project_both(
        self,
        language: Float[Tensor, "W H"],
        vision: Float[Tensor, "V H"],
        words: Layout,
        objects: Layout,
        image_index: Int64[Tensor, " B"] | None,
    ) -> tuple[Projection, Projection]:
        """Queries, keys and values of the words and of the objects of every pair."""
        of_words = self.project(language, words)
        if image_index is None:
            return of_words, self.project(vision, objects)
        images = Layout(len(vision) // objects.length, objects.length)
        shared = self.project(vision, images)
        return of_words, Projection(*(part.index_select(0, image_index) for part in shared))


def spread(
    vision: Float[Tensor, "V H"], num_objects: int, image_index: Int64[Tensor, " B"]
) -> Float[Tensor, "V2 H"]:
    """The objects of each image (I * O, H), once for each pair that shows it (B * O, H)."""
    images = vision.view(-1, num_objects, vision.shape[1])
    return images.index_select(0, image_index).flatten(0, 1)


def _mix(
    query: Float[Tensor, "B N L D"],
    key: Float[Tensor, "B N K D"],
    value: Float[Tensor, "B N K D"],
    mask: Bool[Tensor, "B K"] | None,
    dropout: Dropout,
) -> Float[Tensor, "B N L D"]:
    """Values mixed by attention weights; the kernels take exponents and sums in float32.

    GPUs have a fused kernel for it. That of CPUs is up to eight times slower in bfloat16, and with
    dropout, than the products spelt out (benchmarks/RESULTS.md).
    """
    allowed = None if mask is None else mask[:, None, None, :]  # (B, 1, 1, K)
    rate = dropout.p if dropout.training else 0.0
    if query.device.type != "cpu":
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=allowed, dropout_p=rate
        )
    scores = (query @ key.transpose(-1, -2)).mul_(query.shape[-1] ** -0.5)  # (B, N, L, K)
    if allowed is not None:
        scores.masked_fill_(~allowed, float("-inf"))
    mixed: Tensor = dropout(torch.softmax(scores, -1)) @ value
    return mixed
