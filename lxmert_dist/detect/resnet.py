"""A ResNet in two parts: what sees the image, and what sees a region of its map."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from lxmert_dist.config.detector import RegionConfig, ResNetConfig

STRIDE = 16
"""Pixels of the image between neighbours on the map of res4."""


class ImageNet(nn.Module):
    """The first convolution and res2 to res4. Parameters are named as in torchvision's ResNet."""

    def __init__(self, config: ResNetConfig) -> None:
        """Build it with random weights."""
        super().__init__()
        width = config.width
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = FrozenBatchNorm2d(width)
        self.layer1 = _stage(config, 0, width, width, stride=1)
        self.layer2 = _stage(config, 1, 4 * width, 2 * width, stride=2)
        self.layer3 = _stage(config, 2, 8 * width, 4 * width, stride=2)
        self._caffe_max_pool = config.caffe_max_pool

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """The map of res4, with 16 widths of channels.

        Args:
            pixels: the network's input; H and W at least 16.
        """
        x = functional.relu(self.bn1(self.conv1(pixels)))
        if self._caffe_max_pool:
            x = functional.max_pool2d(x, 3, stride=2, ceil_mode=True)
        else:
            x = functional.max_pool2d(x, 3, stride=2, padding=1)
        found: Float[Tensor, "B C h w"] = self.layer3(self.layer2(self.layer1(x)))
        return found


def region_stage(config: ResNetConfig, regions: RegionConfig) -> nn.Sequential:
    """res5, whose mean over the grid is a region's feature (32 widths)."""
    stride, dilation = (1, 2) if regions.dilated else (2, 1)
    return _stage(config, 3, 16 * config.width, 8 * config.width, stride, dilation)


def _stage(
    config: ResNetConfig, number: int, before: int, planes: int, stride: int, dilation: int = 1
) -> nn.Sequential:
    """A stage of bottlenecks, each with 4 times ``planes`` channels at its end."""
    after = planes * Bottleneck.expansion
    shortcut = nn.Sequential(
        nn.Conv2d(before, after, 1, stride=stride, bias=False), FrozenBatchNorm2d(after)
    )
    blocks = [
        Bottleneck(
            before if index == 0 else after,
            planes,
            stride if index == 0 else 1,
            shortcut if index == 0 else None,
            dilation=dilation,
            norm_layer=FrozenBatchNorm2d,
        )
        for index in range(config.blocks[number])
    ]
    if config.stride_in_1x1:  # torchvision's bottleneck has it in the 3x3 convolution
        blocks[0].conv1.stride = (stride, stride)
        blocks[0].conv2.stride = (1, 1)
    return nn.Sequential(*blocks)
