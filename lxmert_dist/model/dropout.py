"""Dropout that is quick on CPUs too."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Dropout(nn.Module):
    """Inverted dropout with probability ``p``, from torch's global generator.

    On CPUs torch draws one random number an element, in one thread; a draw of 64 bits decides four
    elements here, with the rate rounded to a multiple of 2^-16.
    """

    def __init__(self, p: float) -> None:
        """``p``: chance of zero, in [0, 1]."""
        super().__init__()
        self.p = p

    def forward(self, hidden: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Drop in training, and only there."""
        if not self.training or not self.p:
            return hidden
        if hidden.device.type != "cpu" or self.p == 1:
            return functional.dropout(hidden, self.p)
        drawn = torch.empty(-(-hidden.numel() // 4), dtype=torch.int64)
        levels = drawn.random_(-(2**63), None).view(torch.int16)[: hidden.numel()]
        dropped = round(self.p * 2**16)
        keep = (levels >= dropped - 2**15).view(hidden.shape)
        return (hidden * keep).mul_(2**16 / (2**16 - dropped))
