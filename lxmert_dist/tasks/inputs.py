"""From NumPy on the host to the tensors that the encoders read.

Shapes: B pairs, T tokens, O objects, F feature width.
"""

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lxmert_dist.schema import DataSpec, ModelInputs, PairBatch
from lxmert_dist.store.sentences import SentenceTable


def read_tokens(
    sentences: SentenceTable, pair_ids: Int64[np.ndarray, " B"], spec: DataSpec, max_tokens: int
) -> tuple[Int64[np.ndarray, "B T"], Int64[np.ndarray, " B"]]:
    """The sentences of some pairs, with the special tokens of ``spec``."""
    return sentences.tokens(
        pair_ids,
        max_tokens=max_tokens,
        cls_id=spec.cls_id,
        sep_id=spec.sep_id,
        pad_id=spec.pad_id,
    )


def to_tensor(array: npt.NDArray[np.generic]) -> Tensor:
    """A tensor over the array's memory, or over a copy where that may not be written to."""
    return torch.from_numpy(np.require(array, requirements=("C", "W")))


def model_inputs(
    token_ids: Int64[np.ndarray, "B T"],
    lengths: Int64[np.ndarray, " B"],
    roi_features: Float[np.ndarray, "B O F"],
    batch: PairBatch,
) -> ModelInputs:
    """The inputs of a batch, of (possibly masked) tokens and features."""
    real = np.arange(token_ids.shape[1]) < lengths[:, None]  # (B, T)
    return ModelInputs(
        token_ids=to_tensor(token_ids),
        attention_mask=to_tensor(real),
        roi_features=to_tensor(roi_features),
        boxes=to_tensor(batch.boxes),
    )
