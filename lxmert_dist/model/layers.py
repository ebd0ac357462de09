"""Transformer layers of one sequence and of two (paper, section 2.2).

Sequences are flat rows, see ``attention``. Shapes: B pairs, W packed word pieces, V objects of all
images or pairs, R rows that are read, H hidden.
"""

from collections.abc import Iterator
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lxmert_dist.config.sections import ModelConfig
from lxmert_dist.model.attention import CrossAttention, Layout, Rows, SelfAttention
from lxmert_dist.model.dropout import Dropout
from lxmert_dist.model.linear import ActivatedLinear, Linear


class FeedForward(nn.Module):
    """LayerNorm(x + Dropout(W2 GELU(W1 x))), with the exact GELU."""

    def __init__(self, config: ModelConfig) -> None:
        """Build the two projections."""
        super().__init__()
        self.expand = Linear(config.hidden_size, config.intermediate_size)
        self.contract = ActivatedLinear(config.intermediate_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(self, hidden: Float[Tensor, "R H"]) -> Float[Tensor, "R H"]:
        """One block, row by row."""
        update = self.dropout(self.contract(self.expand(hidden)))
        result: Tensor = self.layer_norm(hidden + update)
        return result


class Layer(nn.Module):
    """Self-attention, then a feed-forward block: a layer of one modality."""

    def __init__(self, config: ModelConfig) -> None:
        """Build both blocks."""
        super().__init__()
        self.attention = SelfAttention(config)
        self.feed_forward = FeedForward(config)

    def forward(
        self, hidden: Float[Tensor, "W H"], layout: Layout, rows: Rows | None = None
    ) -> Float[Tensor, "R H"]:
        """One layer; only ``rows`` come out, and are computed behind the attention."""
        result: Tensor = self.feed_forward(self.attention(hidden, layout, rows))
        return result


class CrossLayer(nn.Module):
    """Cross-attention with weights shared by both directions, then a layer per modality.

    The feed-forward block reads the self-attention's output, as in the paper's figure and the
    released code; the paper's prose says otherwise.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Build the shared block and the two branches."""
        super().__init__()
        self.cross_attention = CrossAttention(config)
        self.language = Layer(config)
        self.vision = Layer(config)

    def forward(
        self,
        language: Float[Tensor, "W H"],
        vision: Float[Tensor, "V H"],
        words: Layout,
        objects: Layout,
        *,
        image_index: Int64[Tensor, " B"] | None = None,
        word_rows: Int64[Tensor, " M"] | None = None,
        object_rows: Int64[Tensor, " R"] | None = None,
        need_vision: bool = True,
    ) -> tuple[Float[Tensor, "W2 H"], Float[Tensor, "V2 H"]]:
        """One layer.

        Args:
            language: packed word pieces.
            vision: as ``CrossAttention`` takes it.
            words: layout of the language.
            objects: layout of the objects of every pair.
            image_index: as ``CrossAttention`` takes it.
            word_rows: the rows of language that come out; None is all.
            object_rows: the rows of vision that come out; None is all.
            need_vision: off spares the visual branch; then the vision means nothing.
        """
        language, vision = self.cross_attention(
            language, vision, words, objects, image_index=image_index, need_vision=need_vision
        )
        language = self.language(language, words, word_rows)
        if need_vision:
            vision = self.vision(vision, objects, object_rows)
        return language, vision


class Encoder(nn.Module):
    """Layers of one modality, one after the other."""

    def __init__(self, config: ModelConfig, num_layers: int) -> None:
        """Build ``num_layers`` >= 0 layers."""
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(num_layers))
        self.recompute = False
        """Whether the backward pass computes a layer again instead of keeping its inside."""

    def forward(self, hidden: Float[Tensor, "W H"], layout: Layout) -> Float[Tensor, "W H"]:
        """All layers."""
        for layer in self.layers:
            hidden = _run(layer, self.recompute, hidden, layout)
        return hidden


class CrossModalityEncoder(nn.Module):
    """Cross layers, one after the other."""

    def __init__(self, config: ModelConfig) -> None:
        """Build ``num_cross_layers`` layers."""
        super().__init__()
        self.layers = nn.ModuleList(CrossLayer(config) for _ in range(config.num_cross_layers))
        self.recompute = False
        """As in :class:`Encoder`."""

    def forward(
        self,
        language: Float[Tensor, "W H"],
        vision: Float[Tensor, "V H"],
        words: Layout,
        objects: Layout,
        *,
        image_index: Int64[Tensor, " B"] | None = None,
        word_rows: Int64[Tensor, " M"] | None = None,
        object_rows: Int64[Tensor, " R"] | None = None,
        need_vision: bool = True,
    ) -> tuple[Float[Tensor, "W2 H"], Float[Tensor, "V2 H"]]:
        """All layers; see :class:`CrossLayer`. What is not read, the last one does not compute."""
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            options: dict[str, Any] = {"image_index": image_index if index == 0 else None}
            if index == last:
                options |= {
                    "word_rows": word_rows,
                    "object_rows": object_rows,
                    "need_vision": need_vision,
                }
            language, vision = _run(
                layer, self.recompute, language, vision, words, objects, **options
            )
        return language, vision

    def last_visual_branch(self) -> Iterator[nn.Parameter]:
        """The parameters that take no part without ``need_vision``."""
        last = self.layers[-1]
        assert isinstance(last, CrossLayer)
        return last.vision.parameters()


def _run(layer: nn.Module, recompute: bool, *args: Any, **options: Any) -> Any:
    if recompute:
        return checkpoint(layer, *args, use_reentrant=False, **options)
    return layer(*args, **options)
