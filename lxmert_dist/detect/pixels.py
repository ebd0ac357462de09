"""From an image to the network's input.

An image is an array of uint8 and always RGB. What is in the network's colour order is a tensor of
floats, and is made in here alone: the two cannot be taken for each other.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from lxmert_dist.config.detector import DetectorInputConfig
from lxmert_dist.detect.resnet import STRIDE


def resized_sides(height: int, width: int, config: DetectorInputConfig) -> tuple[int, int]:
    """Height and width of the network's input.

    A side has at least ``STRIDE`` pixels, so that there is a map: an image that is longer than 62
    times its width is stretched.
    """
    scale = config.short_side / min(height, width)
    scale = min(scale, config.long_side / max(height, width))
    return max(int(height * scale + 0.5), STRIDE), max(int(width * scale + 0.5), STRIDE)


def network_input(
    image: UInt8[np.ndarray, "height width 3"],
    config: DetectorInputConfig,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "1 3 H W"]:
    """Resize, order the channels, and normalise.

    The resizing is bilinear between pixels, without averaging where it shrinks: so do the Caffe
    script and the port of Hugging Face.

    Args:
        image: RGB.
        config: of the network.
        device: where the input is needed.
    """
    channels = torch.from_numpy(image.copy()).to(device).permute(2, 0, 1).float()
    if config.colour_order == "BGR":
        channels = channels.flip(0)
    sides = resized_sides(image.shape[0], image.shape[1], config)
    resized = functional.interpolate(channels[None], sides, mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (config.mean, config.std))
    return (resized - mean) / std
