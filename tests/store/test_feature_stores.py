"""Features without sentences: complete and verified, and refused where text is needed."""

import numpy as np
import pytest

from lxmert_dist.errors import DataError, StoreError
from lxmert_dist.schema import Sentence
from lxmert_dist.store import StoreWriter, open_store, verify
from tiny_store import ATTRIBUTE_CLASSES, OBJECT_CLASSES, make_record


@pytest.fixture
def writer(tmp_path):
    return StoreWriter(
        str(tmp_path / "store"),
        num_objects=3,
        feature_dim=8,
        object_classes=OBJECT_CLASSES,
        attribute_classes=ATTRIBUTE_CLASSES,
        answers=[],
        tokenizer_dir=None,
        extractor="random numbers",
        images_per_shard=4,
    )


def fill(writer, sentences=()):
    split = writer.split("images")
    rng = np.random.default_rng(0)
    records = [make_record(rng, f"image {i}", 3, 8) for i in range(6)]
    for record in records:
        split.append(record)
    split.close(sentences)
    return records


def test_features_are_kept_without_sentences(writer):
    records = fill(writer)
    writer.finish()
    store = open_store(writer.uri)
    assert list(verify(store)) == []
    split = store.split("images")
    assert (split.num_images, split.num_pairs, split.sentences.num_pairs) == (6, 0, 0)
    assert split.image_offsets.tolist() == [0] * 7
    assert split.image_ids == [record.image_id for record in records]
    np.testing.assert_array_equal(
        split.read_shard(1)[1], records[5].roi_features.astype(np.float16)
    )


def test_what_needs_text_is_told_how_to_get_it(writer):
    fill(writer)
    writer.finish()
    store = open_store(writer.uri)
    for ask in (lambda: store.spec, lambda: store.tokenizer, store.tokenizer_dir):
        with pytest.raises(StoreError, match=r"features without sentences.*prepare\.py own"):
            ask()


def test_sentences_have_no_place_in_it(writer):
    with pytest.raises(DataError, match="uid 7"):
        fill(writer, [Sentence("image 1", "uid 7", "own", [3])])
