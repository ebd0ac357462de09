"""Sentences in any order -> the sorted Arrow file of a split, in bounded memory.

Columns of numbers stay in memory, some 15 bytes a sentence; what has another length in every
sentence (word pieces, answers, uids) goes to unnamed temporary files, is sorted there block by
block, and is mapped when the table is written.
"""

import tempfile
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from jaxtyping import Int64

from lxmert_dist.errors import DataError
from lxmert_dist.schema import Sentence
from lxmert_dist.store.sentences import SCHEMA

BATCH = 16_384
"""Sentences that are held as Python objects before they become arrays."""

BLOCK = 65_536
"""Sentences whose values are sorted at once."""

MAX_SOURCES = 256
MAX_VALUES = (1 << 31) - 1
"""Of a column: Arrow's offsets are 32 bits wide."""

Array = npt.NDArray[Any]


class SentenceBuilder:
    """Checks sentences, gathers them and writes them sorted by image row; a context manager."""

    def __init__(
        self, image_rows: Mapping[str, int], answer_ids: Mapping[str, int], vocab_size: int
    ) -> None:
        """Start a table for the images, answers and vocabulary that sentences may refer to.

        With a ``vocab_size`` of 0 it stays empty.
        """
        self._image_rows = image_rows
        self._answer_ids = answer_ids
        self._vocab_size = vocab_size
        self._sources: dict[str, int] = {}
        self._pending: list[Sentence] = []
        self._rows: list[Array] = []
        self._source_ids: list[Array] = []
        self._tokens = _Ragged(np.uint16, "word pieces")
        self._answers = _Ragged(np.int16, "answers")
        self._scores = _Ragged(np.float32, "answer scores")
        self._uids = _Ragged(np.uint8, "letters of uids")

    def __enter__(self) -> "SentenceBuilder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for column in (self._tokens, self._answers, self._scores, self._uids):
            column.close()

    def add(self, sentence: Sentence) -> None:
        """Take one more sentence; it is checked with some thousands of others.

        Raises:
            DataError: of this sentence or of one before: no such image in the split, no tokens,
                tokens that are no integers or outside the vocabulary, an answer outside the table
                or with a score outside (0, 1]; names the uid.
        """
        self._pending.append(sentence)
        if len(self._pending) == BATCH:
            self._flush()

    def write(self, path: Path, num_images: int) -> tuple[Int64[np.ndarray, " N"], dict[str, int]]:
        """Write the table to a local file, sorted by image row, else in the order given.

        Returns:
            Pairs of each image row, and pairs by source name.

        Raises:
            DataError: there are no sentences, but a vocabulary, or more than fit a table.
        """
        self._flush()
        if not self._rows:
            if self._vocab_size:
                raise DataError("a split needs at least one sentence")
            _write_empty(path)
            return np.zeros(num_images, np.int64), {}
        rows = np.concatenate(self._rows)
        order = np.argsort(rows, kind="stable")
        names = sorted(self._sources)
        to_sorted = np.argsort(np.argsort(list(self._sources))).astype(np.uint8)
        sources = to_sorted[np.concatenate(self._source_ids)[order]]
        columns = [
            self._tokens.sorted(order).as_list(SCHEMA.field("token_ids").type),
            pa.array(rows[order]),
            pa.DictionaryArray.from_arrays(pa.array(sources), names),
            self._answers.sorted(order).as_list(SCHEMA.field("answer_ids").type),
            self._scores.sorted(order).as_list(SCHEMA.field("answer_scores").type),
            self._uids.sorted(order).as_text(),
        ]
        _write_columns(path, columns)
        pairs = np.bincount(rows, minlength=num_images)
        by_source = np.bincount(sources, minlength=len(names))
        return pairs, dict(zip(names, by_source.tolist(), strict=True))

    def _flush(self) -> None:
        batch, self._pending = self._pending, []
        if not batch:
            return
        try:
            tokens, lengths = _joined([np.asarray(s.token_ids) for s in batch])
        except (ValueError, OverflowError):  # such as lists in a list
            tokens, lengths = np.empty(0, np.int64), np.zeros(len(batch), np.int64)
        rows = np.array([self._image_rows.get(s.image_id, -1) for s in batch], np.int64)
        known = self._answer_ids
        answers = [s.answers for s in batch]
        ids = np.array([known.get(a, -1) for a in chain.from_iterable(answers)], np.int64)
        scores = np.array([*chain.from_iterable(a.values() for a in answers)], np.float64)
        for sentence in batch:
            self._sources.setdefault(sentence.source, len(self._sources))
        sound = (
            rows.min() >= 0
            and lengths.min() > 0
            and tokens.min() >= 0
            and tokens.max() < self._vocab_size
            and ids.min(initial=0) >= 0
            and bool(((scores > 0) & (scores <= 1)).all())
            and len(self._sources) <= MAX_SOURCES
        )
        if not sound:
            for sentence in batch:
                self._check(sentence)
        self._rows.append(rows.astype(np.uint32))
        sources = [self._sources[s.source] for s in batch]
        self._source_ids.append(np.array(sources, np.uint8))
        self._tokens.append(tokens, lengths)
        counts = np.array([len(a) for a in answers], np.int64)
        self._answers.append(ids, counts)
        self._scores.append(scores, counts)
        uids = [s.uid.encode() for s in batch]
        letters = np.frombuffer(b"".join(uids), np.uint8)
        self._uids.append(letters, np.array([len(uid) for uid in uids], np.int64))

    def _check(self, sentence: Sentence) -> None:
        """Say what is wrong with a sentence, if anything is."""
        where = f"sentence {sentence.uid!r}"
        if sentence.image_id not in self._image_rows:
            raise DataError(
                f"{where}: image {sentence.image_id!r} is not in this split; "
                "add it, or leave the sentence out"
            )
        try:
            token_ids = np.asarray(sentence.token_ids)
        except ValueError as error:
            raise DataError(
                f"{where}: token_ids are no list of integers ({error}); correct the sentence"
            ) from error
        if token_ids.size == 0:
            raise DataError(f"{where} has no tokens; leave it out")
        if not _are_ids(token_ids):
            raise DataError(
                f"{where}: token_ids are {token_ids.dtype} of shape {token_ids.shape}, expected a "
                "list of integers; correct the sentence"
            )
        if token_ids.min() < 0 or token_ids.max() >= self._vocab_size:
            raise DataError(
                f"{where}: token ids in [{token_ids.min()}, {token_ids.max()}], but the tokenizer "
                f"has {self._vocab_size} tokens; use the tokenizer that made them"
            )
        for answer, score in sentence.answers.items():
            if answer not in self._answer_ids:
                raise DataError(
                    f"{where}: answer {answer!r} is not in the answer table; add it there or drop "
                    "it from the sentence"
                )
            if not 0 < score <= 1:
                raise DataError(
                    f"{where}: score {score} of answer {answer!r} is outside (0, 1]; correct it"
                )
        if self._sources[sentence.source] >= MAX_SOURCES:
            raise DataError(
                f"{where}: source {sentence.source!r} is one too many: a split has at most "
                f"{MAX_SOURCES}; give some one name"
            )


class _Ragged:
    """A column whose entries have any number of values; the values lie in a file without a name."""

    def __init__(self, dtype: type[np.generic], what: str) -> None:
        self._dtype = np.dtype(dtype)
        self._what = what
        self._lengths: list[Array] = []
        self._count = 0
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="lxmert_dist_")  # noqa: SIM115

    def close(self) -> None:
        """Give the file back; what is mapped of it stays until it is dropped."""
        self._file.close()

    def append(self, values: Array, lengths: Array) -> None:
        """Add some entries, their values one after the other."""
        self._count += len(values)
        if self._count > MAX_VALUES:
            raise DataError(
                f"a split holds at most {MAX_VALUES:,} {self._what}; make several splits of it"
            )
        self._file.write(values.astype(self._dtype).view(np.uint8).data)
        self._lengths.append(lengths.astype(np.uint32))

    def sorted(self, order: Int64[np.ndarray, " P"]) -> "_Ragged":
        """The entries in another order, in another file; this one is closed."""
        lengths = np.concatenate(self._lengths)
        starts = np.cumsum(lengths, dtype=np.int64) - lengths
        values = self._mapped()
        self.close()
        moved = _Ragged(self._dtype.type, self._what)
        for places in _blocks(order):
            counts = lengths[places].astype(np.int64)
            ends = np.cumsum(counts)
            at = np.arange(ends[-1]) + np.repeat(starts[places] - (ends - counts), counts)
            moved.append(values[at], counts)
        return moved

    def as_list(self, kind: pa.DataType) -> pa.Array:
        """An Arrow list array that maps the file."""
        values = pa.Array.from_buffers(
            kind.value_type, self._count, [None, pa.py_buffer(self._mapped())]
        )
        self.close()
        return pa.Array.from_buffers(kind, *self._entries(), children=[values])

    def as_text(self) -> pa.Array:
        """An Arrow string array that maps the file."""
        count, (validity, offsets) = self._entries()
        data = pa.py_buffer(self._mapped())
        self.close()
        return pa.Array.from_buffers(pa.string(), count, [validity, offsets, data])

    def _entries(self) -> tuple[int, list[Any]]:
        """How many there are, and the buffers of their validity (all are valid) and offsets."""
        lengths = np.concatenate(self._lengths)
        offsets = np.zeros(len(lengths) + 1, np.int32)
        np.cumsum(lengths, out=offsets[1:])
        return len(lengths), [None, pa.py_buffer(offsets)]

    def _mapped(self) -> Array:
        self._file.flush()
        if not self._count:
            return np.empty(0, self._dtype)
        return np.memmap(self._file, self._dtype, "r", shape=(self._count,))


def _blocks(order: Int64[np.ndarray, " P"]) -> Iterator[Int64[np.ndarray, " p"]]:
    for start in range(0, len(order), BLOCK):
        yield order[start : start + BLOCK]


def _are_ids(token_ids: Array) -> bool:
    return token_ids.ndim == 1 and token_ids.dtype.kind in "iu"


def _write_empty(path: Path) -> None:
    columns = [pa.array([], field.type) for field in SCHEMA if field.name != "source"]
    source = SCHEMA.get_field_index("source")
    no_names = pa.array([], pa.string())
    columns.insert(source, pa.DictionaryArray.from_arrays(pa.array([], pa.uint8()), no_names))
    _write_columns(path, columns)


def _write_columns(path: Path, columns: list[Any]) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))


def _joined(batch: list[Array]) -> tuple[Int64[np.ndarray, " W"], Int64[np.ndarray, " n"]]:
    """All ids one after the other, and how many there are of each.

    Raises:
        ValueError: some are no integers.
    """
    if not all(map(_are_ids, batch)):
        raise ValueError("token ids that are no integers")
    lengths = np.array([len(ids) for ids in batch], np.int64)
    return np.concatenate(batch, dtype=np.int64, casting="unsafe"), lengths
