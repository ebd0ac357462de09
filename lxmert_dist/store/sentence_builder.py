"""Sentences in any order -> the sorted Arrow file of a split."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from lxmert_dist.errors import DataError
from lxmert_dist.schema import Sentence
from lxmert_dist.store.sentences import SCHEMA

BATCH = 65_536
"""Sentences that are held as Python objects before they become Arrow arrays."""

MAX_SOURCES = 256


class SentenceBuilder:
    """Checks sentences, gathers them as Arrow arrays and writes them sorted by image row."""

    def __init__(
        self, image_rows: Mapping[str, int], answer_ids: Mapping[str, int], vocab_size: int
    ) -> None:
        """Start a table for the images, answers and vocabulary that sentences may refer to."""
        self._image_rows = image_rows
        self._answer_ids = answer_ids
        self._vocab_size = vocab_size
        self._sources: dict[str, int] = {}
        self._pending: list[tuple[Any, ...]] = []
        self._batches: list[pa.RecordBatch] = []

    def add(self, sentence: Sentence) -> None:
        """Take one more sentence.

        Raises:
            DataError: no such image in the split, no tokens, tokens that are no integers or
                outside the vocabulary, an answer outside the table or with a score outside
                (0, 1]; names the uid.
        """
        if sentence.image_id not in self._image_rows:
            raise DataError(
                f"sentence {sentence.uid!r}: image {sentence.image_id!r} is not in this split"
            )
        token_ids = np.asarray(sentence.token_ids)
        if token_ids.size == 0:
            raise DataError(f"sentence {sentence.uid!r} has no tokens; leave it out")
        if token_ids.ndim != 1 or token_ids.dtype.kind not in "iu":
            raise DataError(
                f"sentence {sentence.uid!r}: token_ids are {token_ids.dtype} of shape "
                f"{token_ids.shape}; expected a list of integers"
            )
        if token_ids.min() < 0 or token_ids.max() >= self._vocab_size:
            raise DataError(
                f"sentence {sentence.uid!r}: token ids in [{token_ids.min()}, {token_ids.max()}], "
                f"but the tokenizer has {self._vocab_size} tokens; is it the right tokenizer?"
            )
        for answer, score in sentence.answers.items():
            if answer not in self._answer_ids:
                raise DataError(
                    f"sentence {sentence.uid!r}: answer {answer!r} is not in the answer table; "
                    "add it there or drop it from the sentence"
                )
            if not 0 < score <= 1:
                raise DataError(
                    f"sentence {sentence.uid!r}: score {score} of answer {answer!r} "
                    "is outside (0, 1]"
                )
        source = self._sources.setdefault(sentence.source, len(self._sources))
        if source >= MAX_SOURCES:
            raise DataError(
                f"sentence {sentence.uid!r}: source {sentence.source!r} is one too many; "
                f"a split has at most {MAX_SOURCES}"
            )
        self._pending.append(
            (
                token_ids.astype(np.uint16),
                self._image_rows[sentence.image_id],
                source,
                [self._answer_ids[answer] for answer in sentence.answers],
                list(sentence.answers.values()),
                sentence.uid,
            )
        )
        if len(self._pending) == BATCH:
            self._flush()

    def write(self, path: Path, num_images: int) -> tuple[Int64[np.ndarray, " N"], dict[str, int]]:
        """Write the table to a local file, sorted by image row, else in the order given.

        Returns:
            Pairs of each image row, and pairs by source name.

        Raises:
            DataError: there are no sentences.
        """
        self._flush()
        if not self._batches:
            raise DataError("a split needs at least one sentence")
        table = pa.Table.from_batches(self._batches)
        self._batches.clear()
        order = np.argsort(table["image_row"].to_numpy(), kind="stable")
        columns = table.take(pa.array(order)).combine_chunks().to_batches()[0].columns
        names = sorted(self._sources)
        to_sorted = np.argsort(np.argsort(list(self._sources))).astype(np.uint8)
        source_ids = to_sorted[columns[2].to_numpy()]
        columns[2] = pa.DictionaryArray.from_arrays(pa.array(source_ids), names)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
        pairs = np.bincount(columns[1].to_numpy(), minlength=num_images)
        by_source = np.bincount(source_ids, minlength=len(names))
        return pairs, dict(zip(names, by_source.tolist(), strict=True))

    def _flush(self) -> None:
        if not self._pending:
            return
        # the codes of the sources are known when the last sentence is: plain numbers until then
        schema = SCHEMA.set(2, pa.field("source", pa.uint8(), False))
        arrays = [
            pa.array(values, field.type)
            for field, values in zip(schema, zip(*self._pending, strict=True), strict=True)
        ]
        self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
        self._pending.clear()
