"""The heads of the five pretraining tasks and of question answering (paper, section 3).

Shapes: B pairs, R objects that are read, H hidden, V vocabulary, A answers, F feature width,
M masked word pieces or objects.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from lxmert_dist.config.sections import ModelConfig
from lxmert_dist.model.initialization import initialize
from lxmert_dist.model.linear import Linear, linear
from lxmert_dist.schema import DataSpec


class Transform(nn.Module):
    """LayerNorm(GELU(W x + b))."""

    def __init__(self, in_size: int, out_size: int, eps: float) -> None:
        """Build the projection and its norm."""
        super().__init__()
        self.dense = Linear(in_size, out_size)
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
        self, hidden: Float[Tensor, "M H"], word_table: Float[Tensor, "V H"]
    ) -> Float[Tensor, "M V"]:
        """Logits at the masked positions only."""
        return linear(self.transform(hidden), word_table, self.bias)


class MatchingHead(nn.Module):
    """Logits of mismatched (0) and matched (1)."""

    def __init__(self, config: ModelConfig) -> None:
        """Build the projection."""
        super().__init__()
        self.decoder = Linear(config.hidden_size, 2)
        initialize(self, config.initializer_range)

    def forward(self, pooled: Float[Tensor, "B H"]) -> Float[Tensor, "B 2"]:
        """Score the pairs."""
        result: Tensor = self.decoder(pooled)
        return result


class VisualPredictions(NamedTuple):
    """What the visual head says of objects; None where it was not asked."""

    object_logits: Float[Tensor, "R C"] | None
    attribute_logits: Float[Tensor, "R D"] | None
    roi_features: Float[Tensor, "M F"] | None


class VisualHead(nn.Module):
    """One transform shared by the decoders of object labels, attribute labels and features."""

    def __init__(self, config: ModelConfig, spec: DataSpec) -> None:
        """Build the transform and three decoders."""
        super().__init__()
        width = config.hidden_size
        self.transform = Transform(width, width, config.layer_norm_eps)
        self.object_label = Linear(width, spec.num_object_classes)
        self.attribute_label = Linear(width, spec.num_attribute_classes)
        self.roi_feature = Linear(width, spec.feature_dim)
        initialize(self, config.initializer_range)

    def forward(
        self,
        vision: Float[Tensor, "R H"],
        regressed: Int64[Tensor, " M"] | None = None,
        *,
        object_label: bool = True,
        attribute_label: bool = True,
        roi_feature: bool = True,
    ) -> VisualPredictions:
        """Describe objects.

        Args:
            vision: the objects.
            regressed: the rows whose features are drawn; None is all.
            object_label: whether to run this decoder.
            attribute_label: whether to run this decoder.
            roi_feature: whether to run this decoder.
        """
        hidden = self.transform(vision)  # (R, H)
        seen = hidden if regressed is None else hidden.index_select(0, regressed)
        return VisualPredictions(
            self.object_label(hidden) if object_label else None,
            self.attribute_label(hidden) if attribute_label else None,
            self.roi_feature(seen) if roi_feature else None,
        )


class AnswerHead(nn.Module):
    """Answer logits from the pooled pair: LayerNorm(GELU(N * H -> 2H)), then 2H -> A.

    N pooled pairs, one behind the other, are read at once: 2 in NLVR2, else 1.
    """

    def __init__(self, config: ModelConfig, num_answers: int, images_per_pair: int = 1) -> None:
        """Build the head for ``num_answers`` >= 1 and N = ``images_per_pair``."""
        super().__init__()
        width = config.hidden_size
        self.transform = Transform(images_per_pair * width, 2 * width, config.layer_norm_eps)
        self.decoder = Linear(2 * width, num_answers)
        initialize(self, config.initializer_range)

    def forward(self, pooled: Float[Tensor, "B NH"]) -> Float[Tensor, "B A"]:
        """Score the answers."""
        result: Tensor = self.decoder(self.transform(pooled))
        return result
