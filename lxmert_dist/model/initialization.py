"""How fresh weights are drawn."""

from torch import nn


def initialize(module: nn.Module, std: float) -> None:
    """Draw every weight below ``module`` anew, from torch's global generator.

    Linear and embedding weights ~ N(0, std), the padding rows of the embeddings included, as in
    the released code; biases 0; layer norms 1 and 0. The draws follow the order of
    ``module.modules()``, so one seed always gives the same weights.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, 0.0, std)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)
        if isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
