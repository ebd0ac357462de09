"""The sentence table: gathered in batches, mapped, and asked for in any order."""

import numpy as np
import pyarrow as pa
import pytest

from lxmert_dist.errors import StoreError
from lxmert_dist.store import sentence_builder
from lxmert_dist.store.sentence_builder import SentenceBuilder
from lxmert_dist.store.sentences import SentenceTable
from tiny_store import ANSWERS, make_sentences

IMAGES = [f"i{k}" for k in range(30)]
SPECIAL = {"cls_id": 2, "sep_id": 3, "pad_id": 0}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A table made from batches of 7 shuffled sentences, and the sentences in its order."""
    monkeypatch.setattr(sentence_builder, "BATCH", 7)
    rng = np.random.default_rng(3)
    sentences = list(make_sentences(rng, IMAGES, 4))
    shuffled = [sentences[i] for i in rng.permutation(len(sentences))]
    rows = {image_id: row for row, image_id in enumerate(IMAGES)}
    with SentenceBuilder(rows, {a: i for i, a in enumerate(ANSWERS)}, 100) as builder:
        for sentence in shuffled:
            builder.add(sentence)
        pairs, _ = builder.write(tmp_path / "table.arrow", len(IMAGES))
    assert pairs.tolist() == [sum(s.image_id == i for s in sentences) for i in IMAGES]
    return SentenceTable(tmp_path / "table.arrow"), sorted(shuffled, key=lambda s: rows[s.image_id])


def test_batches_leave_no_trace(written):
    table, expected = written
    pairs = np.random.default_rng(0).integers(0, table.num_pairs, 60)
    token_ids, lengths = table.tokens(pairs, max_tokens=9, **SPECIAL)
    offsets, ids, scores = table.answers(pairs)
    assert table.uids(pairs) == [expected[p].uid for p in pairs]
    for row, pair in enumerate(pairs):
        framed = [2, *list(expected[pair].token_ids)[:7], 3]
        assert token_ids[row, : lengths[row]].tolist() == framed
        assert not token_ids[row, lengths[row] :].any()
        span = slice(offsets[row], offsets[row + 1])
        found = {ANSWERS[i]: s for i, s in zip(ids[span], scores[span], strict=True)}
        assert found == pytest.approx(expected[pair].answers)


def test_no_pairs_give_empty_arrays(written):
    table, _ = written
    none = np.empty(0, np.int64)
    token_ids, lengths = table.tokens(none, max_tokens=9, **SPECIAL)
    assert (token_ids.shape, lengths.shape) == ((0, 2), (0,))
    assert table.answers(none)[0].tolist() == [0]
    assert table.uids(none) == []


def test_pairs_may_be_a_list(written):
    table, expected = written
    offsets, _, _ = table.answers([4, 1])
    assert offsets[-1] == len(expected[4].answers) + len(expected[1].answers)


def test_columns_are_views_of_the_file(written):
    table, _ = written
    for column in (table.image_rows, table.source_ids, table._tokens, table._answer_scores):
        assert not column.flags.owndata
        assert not column.flags.writeable


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.arrow"
    path.write_bytes(b"nonsense")
    with pytest.raises(StoreError, match="cannot read the sentence table"):
        SentenceTable(path)
    other = pa.table({"x": [1]})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, other.schema) as writer:
        writer.write_table(other)
    with pytest.raises(StoreError, match="is not a sentence table"):
        SentenceTable(path)
