"""From NumPy on the host to the tensors that the encoders read.

Shapes: B pairs, T tokens, I images, O objects, F feature width, R rows.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from lxmert_dist.schema import IGNORED, DataSpec, ModelInputs, PairBatch
from lxmert_dist.store.sentences import SentenceTable


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
        "image_index": (batch.image_index[:, None] * number + np.arange(number)).reshape(-1),
    }
    for name, value in vars(batch).items():
        if not isinstance(value, np.ndarray) or name in of_pairs:
            continue
        if value.ndim == 1:  # (I,)
            changed[name] = np.repeat(value, number)
        else:  # (I, number * O, …)
            rows, objects = value.shape[:2]
            changed[name] = value.reshape(rows * number, objects // number, *value.shape[2:])
    return replace(batch, **changed)  # type: ignore[arg-type]


def rows_of(chosen: Bool[np.ndarray, "..."], multiple: int = 1) -> Int64[np.ndarray, " R"]:
    """The flat places that are True, and ``IGNORED`` to round their number up to a multiple."""
    rows = np.flatnonzero(chosen)
    return np.pad(rows, (0, -len(rows) % multiple), constant_values=IGNORED)
