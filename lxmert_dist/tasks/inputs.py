"""From NumPy on the host to the tensors that the encoders read.

Shapes: B pairs, T tokens, I images, O objects, F feature width, R rows.
"""

from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from lxmert_dist.schema import IGNORED, DataSpec, ModelInputs, PairBatch
from lxmert_dist.store.sentences import SentenceTable

Number = TypeVar("Number", bound=np.generic)


def read_tokens(
    sentences: SentenceTable,
    pair_ids: Int64[np.ndarray, " B"],
    spec: DataSpec,
    max_tokens: int,
    multiple: int = 1,
) -> tuple[Int64[np.ndarray, "B T"], Int64[np.ndarray, " B"]]:
    """The sentences of some pairs, with the special tokens of ``spec``.

    T is the longest of them; it is ``max_tokens`` where shapes are rounded (``multiple`` > 1).
    """
    token_ids, lengths = sentences.tokens(
        pair_ids,
        max_tokens=max_tokens,
        cls_id=spec.cls_id,
        sep_id=spec.sep_id,
        pad_id=spec.pad_id,
    )
    if multiple > 1:
        spare = max_tokens - token_ids.shape[1]
        token_ids = np.pad(token_ids, ((0, 0), (0, spare)), constant_values=spec.pad_id)
    return token_ids, lengths


def to_tensor(array: npt.NDArray[np.generic]) -> Tensor:
    """A tensor over the array's memory, or over a copy where that may not be written to."""
    return torch.from_numpy(np.require(array, requirements=("C", "W")))


def model_inputs(
    token_ids: Int64[np.ndarray, "B T"],
    lengths: Int64[np.ndarray, " B"],
    roi_features: Float[np.ndarray, "I O F"],
    batch: PairBatch,
    multiple: int = 1,
) -> ModelInputs:
    """The inputs of a batch, of (possibly masked) tokens and features, packed.

    Args:
        token_ids: padded at the end of each row.
        lengths: of the sentences.
        roi_features: of the batch's images.
        batch: gives boxes, which of them are real, and which pair shows which image.
        multiple: rounds the number of packed tokens up, see ``train.shape_multiple``.
    """
    real = np.arange(token_ids.shape[1]) < lengths[:, None]  # (B, T)
    objects = batch.real_objects  # (I, O)
    return ModelInputs.pack(
        to_tensor(token_ids),
        to_tensor(real),
        to_tensor(roi_features),
        to_tensor(batch.boxes),
        to_tensor(batch.image_index),
        object_mask=None if objects is None else to_tensor(objects),
        multiple=multiple,
    )


def images_apart(batch: PairBatch, images_per_pair: int) -> PairBatch:
    """A batch of one image a pair out of rows that have several images, one behind the other.

    Each pair stands there once for each of its images, next to each other: with two images, pair i
    becomes pairs 2i and 2i + 1.
    """
    number = images_per_pair
    if number == 1:
        return batch
    of_pairs = ("pair_ids", "image_index")
    changed: dict[str, npt.NDArray[np.generic]] = {
        "pair_ids": np.repeat(batch.pair_ids, number),
        "image_index": index_apart(batch.image_index, number),
    }
    for name, value in vars(batch).items():
        if isinstance(value, np.ndarray) and name not in of_pairs:
            per_row = value.ndim == 1
            changed[name] = np.repeat(value, number) if per_row else objects_apart(value, number)
    return replace(batch, **changed)  # type: ignore[arg-type]


def objects_apart(values: npt.NDArray[Number], images_per_pair: int) -> npt.NDArray[Number]:
    """What rows say of the objects of N images each, (I, N * O, …), as rows of one image."""
    rows, objects = values.shape[:2]
    shape = (rows * images_per_pair, objects // images_per_pair, *values.shape[2:])
    return values.reshape(shape)


def index_apart(
    image_index: Int64[np.ndarray, " B"], images_per_pair: int
) -> Int64[np.ndarray, " BN"]:
    """Which of such rows each pair shows, once for each of its images."""
    index: Int64[np.ndarray, " BN"] = (
        image_index[:, None] * images_per_pair + np.arange(images_per_pair)
    ).reshape(-1)
    return index


def rows_of(chosen: Bool[np.ndarray, "..."], multiple: int = 1) -> Int64[np.ndarray, " R"]:
    """The flat places that are True, and ``IGNORED`` to round their number up to a multiple."""
    rows = np.flatnonzero(chosen)
    return np.pad(rows, (0, -len(rows) % multiple), constant_values=IGNORED)
