"""Batch normalisation that learns while a detector is trained, and is fixed when it is kept.

The network's norms are frozen affine maps, as published: they come with weights that were trained
elsewhere. From random weights at 16 channels a fixed norm lets nothing start. Norms of groups would
learn, but have no place in the published layouts; batch norms have the same five tensors by the
same names, and their running statistics, fixed, are the frozen ones.
"""

from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from lxmert_dist.config.detector import DetectorConfig
from lxmert_dist.detect.faster_rcnn import FasterRcnn

_COUNTER = ".num_batches_tracked"


def let_norms_learn(network: nn.Module) -> None:
    """Put a batch norm with the same tensors in the place of each frozen one."""
    for name, child in network.named_children():
        if isinstance(child, FrozenBatchNorm2d):
            norm = nn.BatchNorm2d(len(child.weight), eps=child.eps)
            norm.load_state_dict(child.state_dict(), strict=False)  # which count no batches
            setattr(network, name, norm)
        else:
            let_norms_learn(child)


def frozen(network: FasterRcnn, config: DetectorConfig) -> FasterRcnn:
    """A copy to be kept and used, with the running statistics for good."""
    kept = FasterRcnn(config)
    kept.load_state_dict(tensors(network))
    return kept


def tensors(network: FasterRcnn) -> dict[str, Tensor]:
    """A network's tensors by name, which learning norms do not change."""
    state = network.state_dict()
    return {name: tensor for name, tensor in state.items() if not name.endswith(_COUNTER)}
