"""The records that rooms hand to each other, and the one legend of dimensions.

Legend: B pairs, T tokens of the longest sentence, W word pieces of all sentences together, O
objects (RoIs) of an image, I images of a batch (I <= B: pairs may share one), F feature width, H
hidden, V vocabulary, A answers; M masked word pieces, K masked objects of the images, R objects
that are read, Q questions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int64, UInt16
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


@dataclass(frozen=True)
class LabelledImage:
    """An image and the N things in it, which a detector learns from.

    Boxes are x1, y1, x2, y2 in pixels of the image. An attribute can be ``IGNORED``.
    """

    image_id: str
    source: Path | bytes
    """An image file, or its contents."""
    boxes: Float32[np.ndarray, "N 4"]
    object_ids: Int64[np.ndarray, " N"]
    attribute_ids: Int64[np.ndarray, " N"]


@runtime_checkable
class Detector(Protocol):
    """Images in, one :class:`RoiRecord` each out.

    Every image gets ``min_objects`` to ``num_objects`` boxes: always as many where they are equal.
    """

    num_objects: int
    min_objects: int
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
    token_ids: Sequence[int] | UInt16[np.ndarray, " W"]
    answers: Mapping[str, float] = field(default_factory=dict)
    """Answer string -> soft score in (0, 1]; empty where there is none."""


@dataclass(frozen=True)
class DataSpec:
    """The sizes that a model takes from a store instead of from its configuration.

    ``num_objects`` is the most boxes of a row of the store; weights do not depend on it. A row has
    the objects of ``images_per_pair`` images, as many of each, one image behind the other.
    """

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
    images_per_pair: int = 1


@runtime_checkable
class DonorPool(Protocol):
    """The images of a lane's planned window, from which masked objects may be swapped in."""

    @property
    def num_images(self) -> int:
        """Images to choose from."""
        ...

    @property
    def num_boxes(self) -> Int64[np.ndarray, " N"] | None:
        """How many boxes each of them has; None where all have as many as the batch's images."""
        ...

    def gather(
        self, images: Int64[np.ndarray, " M"], objects: Int64[np.ndarray, " M"]
    ) -> Float[np.ndarray, "M F"]:
        """Features of object ``objects[i]`` of window image ``images[i]``."""
        ...


@dataclass(frozen=True)
class PairBatch:
    """One rank's pairs of one optimiser step, as ``stream`` reads them; NumPy, on the host.

    Pair i shows image ``image_index[i]`` of the batch; the index ascends without a gap, so each
    image's pairs stand together. ``pair_ids`` index the split's sentence table, ``image_rows`` the
    rows of its arrays. ``object_keys`` are the pair ids that key the draws of an image's objects;
    ``donors[pool_ids[k]]`` is the donor pool of image k. ``num_boxes`` says how many of an image's
    O boxes are real, at least one, the others being zeros behind them; None is all.
    """

    epoch: int
    step: int
    pair_ids: Int64[np.ndarray, " B"]
    image_index: Int64[np.ndarray, " B"]
    image_rows: Int64[np.ndarray, " I"]
    object_keys: Int64[np.ndarray, " I"]
    roi_features: Float[np.ndarray, "I O F"]
    boxes: Float32[np.ndarray, "I O 4"]
    object_ids: Int64[np.ndarray, "I O"]
    object_scores: Float32[np.ndarray, "I O"]
    attribute_ids: Int64[np.ndarray, "I O"]
    attribute_scores: Float32[np.ndarray, "I O"]
    pool_ids: Int64[np.ndarray, " I"]
    donors: Sequence[DonorPool]
    num_boxes: Int64[np.ndarray, " I"] | None = None

    @property
    def real_objects(self) -> Bool[np.ndarray, "I O"] | None:
        """True at real boxes; None is all."""
        if self.num_boxes is None:
            return None
        real: Bool[np.ndarray, "I O"] = np.arange(self.boxes.shape[1]) < self.num_boxes[:, None]
        return real

    def select(self, rows: slice) -> "PairBatch":
        """The pairs of a slice with their images, for a micro-batch."""
        index = self.image_index[rows]
        images = slice(int(index[0]), int(index[-1]) + 1)
        shared = ("epoch", "step", "donors", "pair_ids", "image_index")
        per_image = {
            f.name: value[images]
            for f in fields(self)
            if f.name not in shared and (value := getattr(self, f.name)) is not None
        }
        return replace(
            self, pair_ids=self.pair_ids[rows], image_index=index - index[0], **per_image
        )


@dataclass(frozen=True)
class ModelInputs:
    """What the three encoders read: sentences without padding, and each image once.

    A sentence begins with [CLS] and ends with [SEP]. Sentences stand one after the other; in a
    (B, T) grid with a row for each, word piece w would stand at the flat place ``slots[w]``.
    ``attention_mask`` is True at the grid's real word pieces; the W packed ones are these, and as
    much padding as rounds W up (see :meth:`pack`). Boxes as in :class:`RoiRecord`.
    """

    token_ids: Int64[Tensor, " W"]
    slots: Int64[Tensor, " W"]
    first_tokens: Int64[Tensor, " B"]
    """Where each sentence's [CLS] is among the packed word pieces."""
    attention_mask: Bool[Tensor, "B T"]
    roi_features: Float[Tensor, "I O F"]
    boxes: Float[Tensor, "I O 4"]
    image_index: Int64[Tensor, " B"]
    """As in :class:`PairBatch`."""
    object_mask: Bool[Tensor, "I O"] | None = None
    """True at real objects, at least one in each row; None, the norm, is all."""

    @classmethod
    def pack(
        cls,
        token_ids: Int64[Tensor, "B T"],
        attention_mask: Bool[Tensor, "B T"],
        roi_features: Float[Tensor, "I O F"],
        boxes: Float[Tensor, "I O 4"],
        image_index: Int64[Tensor, " B"] | None = None,
        *,
        object_mask: Bool[Tensor, "I O"] | None = None,
        multiple: int = 1,
    ) -> "ModelInputs":
        """Drop the padding of a batch, on the host.

        Args:
            token_ids: padded at the end of each row.
            attention_mask: True at real tokens, at least at the first of each row.
            roi_features: of each image.
            boxes: of each image.
            image_index: None where every pair has an image of its own.
            object_mask: see the field.
            multiple: W is rounded up to a multiple of this with padding of the grid, while there
                is some; nothing attends to it.
        """
        packed = attention_mask.flatten()  # (B * T,)
        missing = -int(packed.sum()) % multiple
        packed = packed.index_fill(0, (~packed).nonzero().flatten()[:missing], True)
        slots = packed.nonzero().flatten()  # (W,)
        return cls(
            token_ids=token_ids.flatten()[slots],
            slots=slots,
            first_tokens=(slots % token_ids.shape[1] == 0).nonzero().flatten(),
            attention_mask=attention_mask,
            roi_features=roi_features,
            boxes=boxes,
            image_index=torch.arange(len(token_ids)) if image_index is None else image_index,
            object_mask=object_mask,
        )

    def to(self, device: torch.device) -> "ModelInputs":
        """A copy with every tensor on ``device``."""
        moved: ModelInputs = _to(self, device)
        return moved

    def padded_token_ids(self) -> Int64[Tensor, "B T"]:
        """The sentences as rows of a grid, with 0 behind their ends."""
        grid = self.token_ids.new_zeros(self.attention_mask.numel())
        return grid.index_copy(0, self.slots, self.token_ids).view_as(self.attention_mask)


@dataclass(frozen=True)
class PretrainTargets:
    """What the five tasks are trained to say.

    Rows of word pieces and of objects are those of the flat (W) and (B * O) arrays. An index whose
    label is ``IGNORED`` only rounds up the number of rows, and takes no part.

    ``masked_objects``: True where the feature was chosen for masking (zeroed, swapped or kept);
    ``roi_features`` holds the original features of those objects, in row-major order.
    """

    masked_tokens: Int64[Tensor, " M"]
    """Rows of the masked word pieces."""
    masked_lm: Int64[Tensor, " M"]
    """Their original ids."""
    is_matched: Int64[Tensor, " B"]
    """1 where the sentence belongs to the image, 0 where it was swapped."""
    object_ids: Int64[Tensor, "I O"]
    object_scores: Float[Tensor, "I O"]
    attribute_ids: Int64[Tensor, "I O"]
    attribute_scores: Float[Tensor, "I O"]
    masked_objects: Bool[Tensor, "I O"]
    roi_features: Float[Tensor, "K F"]
    masked_object_rows: Int64[Tensor, " R"]
    """Rows of each pair's masked objects."""
    original_rows: Int64[Tensor, " R"]
    """Which of ``roi_features`` each was."""
    questions: Int64[Tensor, " Q"]
    """The pairs that are asked for an answer."""
    answer_ids: Int64[Tensor, " Q"]


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
            inputs=self.inputs.to(device),
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
    images: int = 0
    """How many copies of images were gathered; pairs of a group share one."""
    repeats: int = 0
    """How many of them are of an image that the step has already."""


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
    tensors = {f.name: getattr(record, f.name) for f in fields(record)}
    moved = {k: v.to(device, non_blocking=True) for k, v in tensors.items() if v is not None}
    return replace(record, **moved)
