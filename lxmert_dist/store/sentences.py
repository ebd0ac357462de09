"""The sentences of a split: an Arrow file, memory mapped and read without Python loops."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from jaxtyping import Float32, Int, Int16, Int64, UInt8, UInt32

from lxmert_dist.errors import StoreError

PairIds = Int[np.ndarray, " B"] | Sequence[int]

SCHEMA = pa.schema(
    [
        pa.field("token_ids", pa.list_(pa.field("item", pa.uint16(), nullable=False)), False),
        pa.field("image_row", pa.uint32(), False),
        pa.field("source", pa.dictionary(pa.uint8(), pa.string()), False),
        pa.field("answer_ids", pa.list_(pa.field("item", pa.int16(), nullable=False)), False),
        pa.field("answer_scores", pa.list_(pa.field("item", pa.float32(), nullable=False)), False),
        pa.field("uid", pa.string(), False),
    ]
)
"""One row a pair, sorted by image row, in one record batch (so that every column is one array)."""


class SentenceTable:
    """Token ids, image rows, sources and answers of every pair; P pairs, mapped, not copied.

    Attributes:
        image_rows: row of each pair's image, ascending (a view: unsigned, so cast before
            subtracting).
        source_ids: index into ``sources``.
        sources: the names of the sentence sources, sorted.
    """

    image_rows: UInt32[np.ndarray, " P"]
    source_ids: UInt8[np.ndarray, " P"]
    sources: list[str]

    def __init__(self, path: Path) -> None:
        """Map an Arrow IPC file.

        Raises:
            StoreError: the file is not a sentence table.
        """
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            if reader.num_record_batches != 1 or reader.schema != SCHEMA:
                raise StoreError(f"{path} is not a sentence table; prepare the store again")
            columns = reader.get_batch(0)
        except (pa.ArrowInvalid, OSError) as error:
            raise StoreError(
                f"cannot read the sentence table {path} ({error}); prepare the store again"
            ) from error
        self.image_rows = columns["image_row"].to_numpy()
        self.source_ids = columns["source"].indices.to_numpy()
        self.sources = columns["source"].dictionary.to_pylist()
        self._token_offsets, self._tokens = _ragged(columns["token_ids"])
        self._answer_offsets, self._answer_ids = _ragged(columns["answer_ids"])
        _, self._answer_scores = _ragged(columns["answer_scores"])
        self._uids = columns["uid"]

    @property
    def num_pairs(self) -> int:
        """P, how many sentences there are."""
        return len(self.image_rows)

    def tokens(
        self, pair_ids: PairIds, *, max_tokens: int, cls_id: int, sep_id: int, pad_id: int
    ) -> tuple[Int64[np.ndarray, "B T"], Int64[np.ndarray, " B"]]:
        """The sentences as a model reads them: [CLS] pieces [SEP], then padding.

        Args:
            pair_ids: in [0, P).
            max_tokens: the special tokens included, >= 3; the pieces behind are cut.
            cls_id: id of [CLS].
            sep_id: id of [SEP].
            pad_id: id of [PAD].

        Returns:
            Token ids in [0, V), T being the longest sentence of the batch after the cut, and the
            lengths in [3, T], special tokens included.
        """
        pairs = np.asarray(pair_ids, np.int64)
        starts = self._token_offsets[pairs].astype(np.int64)
        pieces = np.minimum(self._token_offsets[pairs + 1] - starts, max_tokens - 2)
        width = int(pieces.max(initial=0))
        columns = np.arange(width)
        filled = columns < pieces[:, None]  # (B, T - 2)
        token_ids = np.full((len(pairs), width + 2), pad_id, np.int64)
        token_ids[:, 1:-1][filled] = self._tokens[(starts[:, None] + columns)[filled]]
        token_ids[:, 0] = cls_id
        token_ids[np.arange(len(pairs)), pieces + 1] = sep_id
        return token_ids, pieces + 2

    def lengths(self) -> Int64[np.ndarray, " P"]:
        """How many word pieces each sentence has, special tokens not included, before any cut."""
        return np.diff(self._token_offsets.astype(np.int64))

    def answers(
        self, pair_ids: PairIds
    ) -> tuple[Int64[np.ndarray, " B_plus_1"], Int16[np.ndarray, " S"], Float32[np.ndarray, " S"]]:
        """The soft answers of pairs, as CSR.

        Returns:
            Offsets, answer ids in [0, A) and scores in (0, 1]: those of the i-th pair asked for
            stand at ``offsets[i]:offsets[i + 1]``; none where it has no answer.
        """
        pairs = np.asarray(pair_ids, np.int64)
        starts = self._answer_offsets[pairs].astype(np.int64)
        counts = self._answer_offsets[pairs + 1] - starts
        offsets = np.concatenate([[0], np.cumsum(counts)])
        at = np.repeat(starts - offsets[:-1], counts) + np.arange(offsets[-1])
        return offsets, self._answer_ids[at], self._answer_scores[at]

    def uids(self, pair_ids: PairIds) -> list[str]:
        """The uids that the ingest gave to the sentences."""
        uids: list[str] = self._uids.take(pa.array(np.asarray(pair_ids, np.int64))).to_pylist()
        return uids


def _ragged(column: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Offsets (P + 1,) int32 and flat values of a list column, both views."""
    return column.offsets.to_numpy(), column.values.to_numpy()
