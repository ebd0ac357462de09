"""Transformer layers of one sequence and of two (paper, section 2.2).

Shapes: B pairs, L positions, T tokens, O objects, H hidden.
"""

from collections.abc import Iterator

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from lxmert_dist.config.sections import ModelConfig
from lxmert_dist.model.attention import CrossAttention, SelfAttention


class FeedForward(nn.Module):
    """LayerNorm(x + Dropout(W2 GELU(W1 x))), with the exact GELU."""

    def __init__(self, config: ModelConfig) -> None:
        """Build the two projections."""
        super().__init__()
        self.expand = nn.Linear(config.hidden_size, config.intermediate_size)
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden: Float[Tensor, "B L H"]) -> Float[Tensor, "B L H"]:
        """One block."""
        update = self.dropout(self.contract(functional.gelu(self.expand(hidden))))
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
        self, hidden: Float[Tensor, "B L H"], mask: Bool[Tensor, "B L"] | None
    ) -> Float[Tensor, "B L H"]:
        """One layer; ``mask`` is True at the positions that may be looked at."""
        result: Tensor = self.feed_forward(self.attention(hidden, mask))
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
        language: Float[Tensor, "B T H"],
        vision: Float[Tensor, "B O H"],
        language_mask: Bool[Tensor, "B T"] | None,
        vision_mask: Bool[Tensor, "B O"] | None,
        *,
        need_vision: bool = True,
    ) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B O H"]]:
        """One layer; without ``need_vision`` the vision comes back as it was."""
        language, vision = self.cross_attention(
            language, vision, language_mask, vision_mask, need_vision=need_vision
        )
        language = self.language(language, language_mask)
        if need_vision:
            vision = self.vision(vision, vision_mask)
        return language, vision


class Encoder(nn.Module):
    """Layers of one modality, one after the other."""

    def __init__(self, config: ModelConfig, num_layers: int) -> None:
        """Build ``num_layers`` >= 0 layers."""
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(num_layers))

    def forward(
        self, hidden: Float[Tensor, "B L H"], mask: Bool[Tensor, "B L"] | None
    ) -> Float[Tensor, "B L H"]:
        """All layers; ``mask`` is True at the positions that may be looked at."""
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return hidden


class CrossModalityEncoder(nn.Module):
    """Cross layers, one after the other."""

    def __init__(self, config: ModelConfig) -> None:
        """Build ``num_cross_layers`` layers."""
        super().__init__()
        self.layers = nn.ModuleList(CrossLayer(config) for _ in range(config.num_cross_layers))

    def forward(
        self,
        language: Float[Tensor, "B T H"],
        vision: Float[Tensor, "B O H"],
        language_mask: Bool[Tensor, "B T"] | None,
        vision_mask: Bool[Tensor, "B O"] | None,
        *,
        need_vision: bool = True,
    ) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B O H"] | None]:
        """All layers; without ``need_vision`` the last one spares its visual branch."""
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            language, vision = layer(
                language,
                vision,
                language_mask,
                vision_mask,
                need_vision=need_vision or index < last,
            )
        return language, vision if need_vision else None

    def last_visual_branch(self) -> Iterator[nn.Parameter]:
        """The parameters that take no part without ``need_vision``."""
        last = self.layers[-1]
        assert isinstance(last, CrossLayer)
        return last.vision.parameters()
