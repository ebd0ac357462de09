"""The region proposal network (Ren et al., 2015): where there may be an object, of any class."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import nms

from lxmert_dist.config.detector import ProposalConfig
from lxmert_dist.detect.box_coding import clipped, corrected
from lxmert_dist.detect.resnet import STRIDE


class ProposalNetwork(nn.Module):
    """Scores and corrects the anchors of every place of a map, and keeps the best.

    Attributes:
        anchors: (A, 4) around the place at 0, in pixels of the resized image. A part of the
            weights: the published ones are rounded as Caffe rounds.
    """

    anchors: Tensor

    def __init__(self, config: ProposalConfig, channels: int) -> None:
        """Build it with random weights, for a map of ``channels``."""
        super().__init__()
        anchors = base_anchors(config.anchor_sizes, config.anchor_ratios)
        self.register_buffer("anchors", anchors)
        self.conv = nn.Conv2d(channels, config.channels, 3, padding=1)
        self.objectness = nn.Conv2d(config.channels, len(anchors), 1)
        self.corrections = nn.Conv2d(config.channels, 4 * len(anchors), 1)
        self._config = config

    def forward(
        self, feature_map: Float[Tensor, "1 C h w"], height: int, width: int
    ) -> Float[Tensor, "R 4"]:
        """Proposals, the likeliest first.

        Args:
            feature_map: of one image.
            height: of the resized image, in pixels.
            width: the same.

        Returns:
            Boxes in pixels of the resized image, within it; R from 0 to ``after_nms``.
        """
        logits, moves = self.scores(feature_map)
        return self.best(logits[0], moves[0], self.anchors_of(feature_map), height, width)

    def scores(
        self, feature_map: Float[Tensor, "B C h w"]
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K 4"]]:
        """Logits and corrections of all K anchors of each image, place after place."""
        hidden = functional.relu(self.conv(feature_map))
        logits = self.objectness(hidden).permute(0, 2, 3, 1).flatten(1)
        moves = self.corrections(hidden).permute(0, 2, 3, 1).flatten(1)
        return logits, moves.view(len(moves), -1, 4)

    def best(
        self,
        logits: Float[Tensor, " K"],
        moves: Float[Tensor, "K 4"],
        anchors: Float[Tensor, "K 4"],
        height: int,
        width: int,
    ) -> Float[Tensor, "R 4"]:
        """The proposals of one image, as :meth:`forward`."""
        config = self._config
        logits, order = logits.sort(descending=True, stable=True)
        order = order[: config.before_nms]
        boxes = clipped(
            corrected(anchors[order], moves[order], (1.0, 1.0, 1.0, 1.0)), height, width
        )
        large = (boxes[:, 2:] - boxes[:, :2] > config.min_size).all(dim=1)
        boxes, logits = boxes[large], logits[: len(order)][large]
        return boxes[nms(boxes, logits, config.nms_threshold)[: config.after_nms]]

    def anchors_of(self, feature_map: Float[Tensor, "B C h w"]) -> Float[Tensor, "K 4"]:
        """The anchors of a map, in the order of the network's outputs."""
        rows, columns = feature_map.shape[-2:]
        like = self.anchors
        y = torch.arange(rows, device=like.device, dtype=like.dtype) * STRIDE
        x = torch.arange(columns, device=like.device, dtype=like.dtype) * STRIDE
        y, x = torch.meshgrid(y, x, indexing="ij")
        shifts = torch.stack([x, y, x, y], dim=-1).view(-1, 1, 4)
        return (shifts + like).view(-1, 4)


def base_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Float[Tensor, "A 4"]:
    """Anchors around 0: every ratio of height to width for the first size, then for the next."""
    size = torch.tensor(sizes)[:, None]
    root = torch.tensor(ratios).sqrt()
    half = torch.stack([size / root, size * root], dim=-1).view(-1, 2) / 2
    return torch.cat([-half, half], dim=1)
