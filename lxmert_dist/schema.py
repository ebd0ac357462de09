"""The records that rooms hand to each other, and the one legend of dimensions.

Legend: B pairs, T tokens, O objects (RoIs), F feature width, H hidden, V vocabulary,
A answers, N images, M masked positions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int64
from torch import Tensor

IGNORED = -1
"""Label of a position that takes no part in a loss."""


@dataclass(frozen=True)
class RoiRecord:
    """One image as a detector describes it; the door between ``detect`` and ``store``.

    Boxes are x1, y1, x2, y2 over the image size, in [0, 1]. Scores are softmax probabilities of
    the arg-max class, in [0, 1]. Ids index the detector's ``object_classes`` and
    ``attribute_classes`` (no background class).
    """

    image_id: str
    height: int
    width: int
    boxes: Float32[np.ndarray, "O 4"]
    roi_features: Float32[np.ndarray, "O F"]
    object_ids: Int64[np.ndarray, " O"]
    object_scores: Float32[np.ndarray, " O"]
    attribute_ids: Int64[np.ndarray, " O"]
    attribute_scores: Float32[np.ndarray, " O"]


@runtime_checkable
class Detector(Protocol):
    """Images in, one :class:`RoiRecord` each out. Every image gets ``num_objects`` boxes."""

    num_objects: int
    feature_dim: int
    object_classes: Sequence[str]
    attribute_classes: Sequence[str]
    name: str
    """Model, weights and selection rule; written into the store's manifest."""

    def detect(self, image_ids: Sequence[str], images: Sequence[np.ndarray]) -> list[RoiRecord]:
        """Describe a batch of uint8 RGB images of shape (height, width, 3)."""
        ...


@dataclass(frozen=True)
class Sentence:
    """A sentence about one image, tokenised, without special tokens and not cut."""

    image_id: str
    uid: str
    source: str
    token_ids: Sequence[int]
    answers: Mapping[str, float] = field(default_factory=dict)
    """Answer string -> soft score in (0, 1]; empty where there is none."""


@dataclass(frozen=True)
class DataSpec:
    """The sizes that a model takes from a store instead of from its configuration."""

    vocab_size: int
    pad_id: int
    cls_id: int
    sep_id: int
    mask_id: int
    num_objects: int
    feature_dim: int
    num_object_classes: int
    num_attribute_classes: int
    num_answers: int


@runtime_checkable
class DonorPool(Protocol):
    """The images of a lane's planned window, from which masked objects may be swapped in."""

    @property
    def num_images(self) -> int:
        """Images to choose from."""
        ...

    def gather(
        self, images: Int64[np.ndarray, " M"], objects: Int64[np.ndarray, " M"]
    ) -> Float[np.ndarray, "M F"]:
        """Features of object ``objects[i]`` of window image ``images[i]``."""
        ...


@dataclass(frozen=True)
class PairBatch:
    """One rank's pairs of one optimiser step, as ``stream`` reads them; NumPy, on the host.

    ``pair_ids`` index the split's sentence table, ``image_rows`` the rows of its arrays.
    ``donors[pool_ids[i]]`` is the donor pool of pair i.
    """

    epoch: int
    step: int
    pair_ids: Int64[np.ndarray, " B"]
    image_rows: Int64[np.ndarray, " B"]
    roi_features: Float[np.ndarray, "B O F"]
    boxes: Float32[np.ndarray, "B O 4"]
    object_ids: Int64[np.ndarray, "B O"]
    object_scores: Float32[np.ndarray, "B O"]
    attribute_ids: Int64[np.ndarray, "B O"]
    attribute_scores: Float32[np.ndarray, "B O"]
    pool_ids: Int64[np.ndarray, " B"]
    donors: Sequence[DonorPool]

    def select(self, rows: slice) -> "PairBatch":
        """The pairs of a slice, for a micro-batch."""
        per_pair = {
            f.name: getattr(self, f.name)[rows]
            for f in fields(self)
            if f.name not in ("epoch", "step", "donors")
        }
        return replace(self, **per_pair)


@dataclass(frozen=True)
class ModelInputs:
    """What the three encoders read.

    ``token_ids`` begin with [CLS], end with [SEP] and are padded with the pad id;
    ``attention_mask`` is True at real tokens. Boxes as in :class:`RoiRecord`.
    """

    token_ids: Int64[Tensor, "B T"]
    attention_mask: Bool[Tensor, "B T"]
    roi_features: Float[Tensor, "B O F"]
    boxes: Float[Tensor, "B O 4"]


@dataclass(frozen=True)
class PretrainTargets:
    """What the five tasks are trained to say; ``IGNORED`` marks what takes no part.

    ``is_matched``: 1 where the sentence belongs to the image, 0 where it was swapped.
    ``masked_objects``: True where the feature was chosen for masking (zeroed, swapped or kept);
    ``roi_features`` holds the original features of those objects, in row-major order.
    """

    masked_lm: Int64[Tensor, "B T"]
    is_matched: Int64[Tensor, " B"]
    object_ids: Int64[Tensor, "B O"]
    object_scores: Float[Tensor, "B O"]
    attribute_ids: Int64[Tensor, "B O"]
    attribute_scores: Float[Tensor, "B O"]
    masked_objects: Bool[Tensor, "B O"]
    roi_features: Float[Tensor, "M F"]
    answer_ids: Int64[Tensor, " B"]


@dataclass(frozen=True)
class AnswerTargets:
    """Soft scores in [0, 1] of every answer, for fine-tuning."""

    scores: Float[Tensor, "B A"]


@dataclass(frozen=True)
class MicroBatch:
    """One forward and backward of one rank.

    ``counts``: by loss name, how many terms this micro-batch adds to that loss's mean; the loop
    sums them over micro-batches and ranks before it divides.
    """

    pair_ids: Int64[Tensor, " B"]
    inputs: ModelInputs
    targets: PretrainTargets | AnswerTargets
    counts: Mapping[str, float]

    def to(self, device: torch.device) -> "MicroBatch":
        """A copy with every tensor on ``device``."""
        return replace(
            self,
            inputs=_to(self.inputs, device),
            targets=_to(self.targets, device),
            pair_ids=self.pair_ids.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class StepBatch:
    """One rank's share of one optimiser step."""

    epoch: int
    step: int
    micro_batches: Sequence[MicroBatch]
    wait_seconds: float = 0.0
    """How long the loop waited for this batch."""
    counted: bool = True
    """False where an evaluation only keeps the ranks in step; its results do not count."""
    identity: int = 0
    """See ``stream.identity``; of this rank's pairs alone."""


Collate = Callable[[PairBatch], MicroBatch]
"""What a task gives to the loader: raw pairs in, one micro-batch out. Pure."""


@dataclass(frozen=True)
class LossReport:
    """What a task's forward returns.

    ``losses``: by name, the *sum* of the loss's terms over the micro-batch (0-d, differentiable);
    divided by the global count it is the mean that the paper states.
    ``metrics``: by name, (sum, count), e.g. right answers and answers.
    """

    losses: Mapping[str, Float[Tensor, ""]]
    metrics: Mapping[str, tuple[Float[Tensor, ""], Float[Tensor, ""] | Int[Tensor, ""]]]


def _to(record, device: torch.device):  # type: ignore[no-untyped-def]
    moved = {f.name: getattr(record, f.name).to(device, non_blocking=True) for f in fields(record)}
    return replace(record, **moved)
