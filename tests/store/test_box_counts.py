"""Stores whose images differ in their number of boxes."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from lxmert_dist.errors import DataError
from lxmert_dist.store import StoreWriter, open_store, verify
from lxmert_dist.store import uri as uris
from lxmert_dist.store.chunks import seal_chunk
from lxmert_dist.store.layout import POINTER_KEY, SCHEMA_VERSION, manifest_key
from lxmert_dist.store.manifest import ChunkEntry, canonical_json, encode
from tiny_store import (
    ANSWERS,
    ATTRIBUTE_CLASSES,
    OBJECT_CLASSES,
    make_record,
    make_sentences,
    make_tiny_store,
    make_tokenizer,
)

ARRAYS = ("boxes", "object_ids", "object_scores", "attribute_ids", "attribute_scores")


def writer_at(uri: str, tmp_path: Path, **how) -> StoreWriter:
    sizes = {"num_objects": 5, "min_objects": 2, "feature_dim": 8, "images_per_shard": 4, **how}
    return StoreWriter(
        uri,
        object_classes=OBJECT_CLASSES,
        attribute_classes=ATTRIBUTE_CLASSES,
        answers=ANSWERS,
        tokenizer_dir=make_tokenizer(tmp_path / "tokenizer"),
        extractor="random numbers",
        **sizes,
    )


@pytest.fixture
def records():
    rng = np.random.default_rng(3)
    return [make_record(rng, f"image {i}", 2 + i % 4, 8) for i in range(10)]


@pytest.fixture
def uri(tmp_path, records):
    place = str(tmp_path / "store")
    writer = writer_at(place, tmp_path)
    split = writer.split("train")
    for record in records:
        split.append(record)
    names = [record.image_id for record in records]
    split.close(make_sentences(np.random.default_rng(0), names, 2))
    writer.finish()
    return place


def test_images_come_out_as_they_went_in_with_zeros_behind(uri, records):
    split = open_store(uri).split("train")
    features = np.concatenate([split.read_shard(k) for k in range(split.num_shards)])
    assert features.shape == (10, 5, 8)
    assert split.num_boxes.tolist() == [len(record.boxes) for record in records]
    for row, record in enumerate(records):
        count = len(record.boxes)
        np.testing.assert_array_equal(features[row, :count], record.roi_features.astype(np.float16))
        assert not features[row, count:].any()
        for name in ARRAYS:
            stored, value = getattr(split, name)[row], getattr(record, name)
            np.testing.assert_array_equal(stored[:count], value.astype(stored.dtype))
            assert not stored[count:].any()


def test_zarr_reads_the_numbers(uri):
    group = zarr.open_group(uri, mode="r")
    assert group["train/num_boxes"].dtype == np.int16
    assert group["train/num_boxes"][:].tolist() == [2, 3, 4, 5, 2, 3, 4, 5, 2, 3]


@pytest.mark.parametrize("least", [None, 4])
def test_a_store_of_full_images_is_written_as_ever(tmp_path, least):
    """Also where the least number is the most."""
    uri = str(tmp_path / "store")
    make_tiny_store(uri, images=20, objects=4, min_objects=least)
    store = open_store(uri)
    assert store.split("train").num_boxes is None
    text = (Path(uri) / manifest_key(store.digest)).read_text()
    assert "min_objects" not in text
    assert "num_boxes" not in text


@pytest.mark.parametrize("boxes", [1, 6])
def test_an_image_out_of_range_is_named(tmp_path, boxes):
    split = writer_at(str(tmp_path / "store"), tmp_path).split("train")
    record = make_record(np.random.default_rng(0), "a.jpg", boxes, 8)
    with pytest.raises(DataError, match=f"'a.jpg': {boxes} boxes, the store takes 2 to 5"):
        split.append(record)


@pytest.mark.parametrize("least", [0, 6])
def test_a_range_that_is_none_is_refused(tmp_path, least):
    with pytest.raises(DataError, match=f"min_objects={least} must be at least 1 and at most"):
        writer_at(str(tmp_path / "store"), tmp_path, min_objects=least)


def rewrite(uri: str, key: str, at: int, value: int) -> None:
    """Change a byte of a chunk, and make the checksums of chunk and manifest right again."""
    store = open_store(uri)
    data = bytearray((Path(uri) / key).read_bytes())
    data[at] = value
    seal_chunk(data)
    (Path(uri) / key).write_bytes(data)
    entry = ChunkEntry.of(key, bytes(data))
    split = store.manifest.splits["train"]
    arrays = {n: entry if e.key == key else e for n, e in split.arrays.items()}
    shards = tuple(
        s.model_copy(update={"chunk": entry}) if s.chunk.key == key else s for s in split.shards
    )
    split = split.model_copy(update={"arrays": arrays, "shards": shards})
    manifest = store.manifest.model_copy(update={"splits": {"train": split}})
    text, digest = encode(manifest)
    uris.write_bytes(uris.join(uri, manifest_key(digest)), text)
    pointer = canonical_json({"schema_version": SCHEMA_VERSION, "digest": digest})
    uris.write_bytes(uris.join(uri, POINTER_KEY), pointer)


def test_verify_finds_nothing_in_a_sound_store(uri):
    assert not list(verify(open_store(uri)))


@pytest.mark.parametrize(
    ("key", "at", "value", "message"),
    [
        ("train/num_boxes/c/0", 0, 1, "has 1 to 5 boxes, the manifest 2 to 5"),
        ("train/num_boxes/c/0", 0, 6, "has 2 to 6 boxes, the manifest 2 to 5"),
        ("train/boxes/c/0/0/0", 4 * 4 * 2, 1, "image 0 of it is not zero behind its 2 boxes"),
        ("train/object_ids/c/0/0", 2 * 5 + 2 * 3, 1, "image 1 of it is not zero behind its 3"),
        ("train/roi_features/c/1/0/0", 2 * 8 * 2, 1, "image 0 of it is not zero behind its 2"),
        ("train/roi_features/c/2/0/0", 2 * 8 * 9, 1, "image 1 of it is not zero behind its 3"),
    ],
)
def test_verify_finds_numbers_out_of_range_and_padding_that_is_not_zero(
    uri, key, at, value, message
):
    rewrite(uri, key, at, value)
    found = dict(verify(open_store(uri)))
    assert message in found.get(key, "")


def test_verify_finds_damaged_numbers(uri, hurried):
    file = Path(uri) / "train/num_boxes/c/0"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert [key for key, _ in verify(open_store(uri))] == ["train/num_boxes/c/0"]
