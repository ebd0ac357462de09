"""The heads of the five pretraining tasks and of question answering (paper, section 3).

Shapes: B pairs, O objects, H hidden, V vocabulary, A answers, F feature width, M masked
positions or objects.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from lxmert_dist.config.sections import ModelConfig
from lxmert_dist.model.initialization import initialize
from lxmert_dist.schema import DataSpec


class Transform(nn.Module):
    """LayerNorm(GELU(W x + b))."""

    def __init__(self, in_size: int, out_size: int, eps: float) -> None:
        """Build the projection and its norm."""
        super().__init__()
        self.dense = nn.Linear(in_size, out_size)
        self.layer_norm = nn.LayerNorm(out_size, eps=eps)

    def forward(self, hidden: Float[Tensor, "*L H"]) -> Float[Tensor, "*L W"]:
        """Transform the last axis."""
        result: Tensor = self.layer_norm(functional.gelu(self.dense(hidden)))
        return result


class MaskedLanguageHead(nn.Module):
    """Word-piece logits; the decoder is the word embedding plus a bias of its own."""

    def __init__(self, config: ModelConfig, spec: DataSpec) -> None:
        """Build the transform and the bias."""
        super().__init__()
        self.transform = Transform(config.hidden_size, config.hidden_size, config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(spec.vocab_size))
        initialize(self, config.initializer_range)

    def forward(
        self, hidden: Float[Tensor, "M H"], word_weight: Float[Tensor, "V H"]
    ) -> Float[Tensor, "M V"]:
        """Logits at the masked positions only."""
        return functional.linear(self.transform(hidden), word_weight, self.bias)


class MatchingHead(nn.Module):
    """Logits of mismatched (0) and matched (1)."""

    def __init__(self, config: ModelConfig) -> None:
        """Build the projection."""
        super().__init__()
        self.decoder = nn.Linear(config.hidden_size, 2)
        initialize(self, config.initializer_range)

    def forward(self, pooled: Float[Tensor, "B H"]) -> Float[Tensor, "B 2"]:
        """Score the pairs."""
        result: Tensor = self.decoder(pooled)
        return result


class VisualPredictions(NamedTuple):
    """What the visual head says of the objects; features only of the masked ones."""

    object_logits: Float[Tensor, "B O C"]
    attribute_logits: Float[Tensor, "B O D"]
    roi_features: Float[Tensor, "M F"]


class VisualHead(nn.Module):
    """One transform shared by the decoders of object labels, attribute labels and features."""

    def __init__(self, config: ModelConfig, spec: DataSpec) -> None:
        """Build the transform and three decoders."""
        super().__init__()
        width = config.hidden_size
        self.transform = Transform(width, width, config.layer_norm_eps)
        self.object_label = nn.Linear(width, spec.num_object_classes)
        self.attribute_label = nn.Linear(width, spec.num_attribute_classes)
        self.roi_feature = nn.Linear(width, spec.feature_dim)
        initialize(self, config.initializer_range)

    def forward(
        self, vision: Float[Tensor, "B O H"], masked: Bool[Tensor, "B O"]
    ) -> VisualPredictions:
        """Describe every object, and draw the features of those that are ``masked``."""
        hidden = self.transform(vision)  # (B, O, H)
        return VisualPredictions(
            self.object_label(hidden),
            self.attribute_label(hidden),
            self.roi_feature(hidden[masked]),
        )


class AnswerHead(nn.Module):
    """Answer logits from the pooled pair: LayerNorm(GELU(H -> 2H)), then 2H -> A."""

    def __init__(self, config: ModelConfig, num_answers: int) -> None:
        """Build the head for ``num_answers`` >= 1."""
        super().__init__()
        width = config.hidden_size
        self.transform = Transform(width, 2 * width, config.layer_norm_eps)
        self.decoder = nn.Linear(2 * width, num_answers)
        initialize(self, config.initializer_range)

    def forward(self, pooled: Float[Tensor, "B H"]) -> Float[Tensor, "B A"]:
        """Score the answers."""
        result: Tensor = self.decoder(self.transform(pooled))
        return result
