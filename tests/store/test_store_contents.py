"""What goes into a store comes out of it, for us and for anybody with zarr-python."""

import dataclasses
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
import zarr

from lxmert_dist.errors import StoreError
from lxmert_dist.schema import RoiRecord, Sentence
from lxmert_dist.store import StoreWriter, has_store, open_store, verify
from tiny_store import (
    ANSWERS,
    SOURCES,
    make_record,
    make_sentences,
    make_tiny_store,
    make_tokenizer,
)

ARRAYS = (
    "boxes",
    "object_ids",
    "object_scores",
    "attribute_ids",
    "attribute_scores",
)


def write(uri: str, records: list[RoiRecord], sentences: list[Sentence], tmp_path: Path, **how):
    """A store of one split, ``train``."""
    writer = StoreWriter(
        uri,
        num_objects=3,
        feature_dim=8,
        object_classes=[f"object {i}" for i in range(12)],
        attribute_classes=[f"attribute {i}" for i in range(7)],
        answers=ANSWERS,
        tokenizer_dir=make_tokenizer(tmp_path / "tokenizer"),
        extractor="random numbers",
        images_per_shard=4,
        **how,
    )
    split = writer.split("train")
    for record in records:
        split.append(record)
    split.close(sentences)
    return writer.finish()


@pytest.fixture
def records():
    rng = np.random.default_rng(3)
    return [make_record(rng, f"image {i}", 3, 8) for i in range(10)]


@pytest.fixture
def sentences(records):
    rng = np.random.default_rng(4)
    return list(make_sentences(rng, [r.image_id for r in records], 4))


@pytest.fixture(params=["disk", "memory", pytest.param("s3", marks=pytest.mark.s3)])
def place(request, tmp_path):
    if request.param == "s3":
        return request.getfixturevalue("s3").uri(tmp_path.name)
    return str(tmp_path / "store") if request.param == "disk" else f"memory://{tmp_path.name}"


def test_records_and_sentences_come_back(place, records, sentences, tmp_path):
    digest = write(place, records, sentences, tmp_path)
    store = open_store(place)
    assert store.digest == digest
    assert store.answers == ANSWERS
    split = store.split("train")
    assert (split.num_images, split.num_pairs, split.num_shards) == (10, len(sentences), 3)
    assert list(split.image_ids) == [r.image_id for r in records]
    features = np.concatenate([split.read_shard(k) for k in range(3)])
    for row, record in enumerate(records):
        assert np.array_equal(features[row], record.roi_features.astype(np.float16))
        assert split.sizes[row].tolist() == [record.height, record.width]
        for name in ARRAYS:
            stored = getattr(split, name)[row]
            assert np.array_equal(stored, getattr(record, name).astype(stored.dtype))

    table = split.sentences
    rows = {r.image_id: row for row, r in enumerate(records)}
    ordered = sorted(sentences, key=lambda s: rows[s.image_id])  # stable
    everything = np.arange(table.num_pairs)
    assert table.uids(everything) == [s.uid for s in ordered]
    assert np.asarray(table.image_rows).tolist() == [rows[s.image_id] for s in ordered]
    assert [table.sources[k] for k in table.source_ids] == [s.source for s in ordered]
    offsets, ids, scores = table.answers(everything)
    for pair, sentence in enumerate(ordered):
        span = slice(offsets[pair], offsets[pair + 1])
        found = {ANSWERS[i]: score for i, score in zip(ids[span], scores[span], strict=True)}
        assert found == pytest.approx(sentence.answers)
    for row in range(10):
        span = everything[split.image_offsets[row] : split.image_offsets[row + 1]]
        assert {rows[ordered[p].image_id] for p in span} <= {row}
    assert list(verify(store)) == []


def test_tokens_are_cut_padded_and_framed(tiny_store):
    table = open_store(tiny_store).split("train").sentences
    pairs = np.arange(table.num_pairs)[::3]
    whole, whole_lengths = table.tokens(pairs, max_tokens=60, cls_id=2, sep_id=3, pad_id=0)
    short, lengths = table.tokens(pairs, max_tokens=7, cls_id=2, sep_id=3, pad_id=0)
    assert short.shape[1] == 7
    for row, (full, cut) in enumerate(zip(whole, short, strict=True)):
        pieces = full[1 : whole_lengths[row] - 1].tolist()
        expected = [2, *pieces[:5], 3]
        assert lengths[row] == len(expected)
        assert cut.tolist() == expected + [0] * (7 - len(expected))
        assert full.tolist() == [2, *pieces, 3] + [0] * (len(full) - len(pieces) - 2)


def assert_same_bits(theirs: zarr.Array, ours: np.ndarray) -> None:
    """Equal in type and in every bit; no value is zarr's fill value for want of a chunk."""
    assert isinstance(theirs, zarr.Array)
    assert theirs.nchunks_initialized == theirs.nchunks
    values = theirs[:]
    assert (values.dtype, values.shape) == (ours.dtype, ours.shape)
    assert np.ascontiguousarray(values).tobytes() == np.ascontiguousarray(ours).tobytes()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_plain_zarr_reads_the_same_bits(place, dtype):
    make_tiny_store(place, images=50, feature_dtype=dtype)
    ours = open_store(place)
    group = zarr.open_group(place, mode="r", zarr_format=3)
    for name in ("train", "valid", "test"):
        split = ours.split(name)
        features = np.concatenate([split.read_shard(k) for k in range(split.num_shards)])
        assert features.dtype == dtype
        assert_same_bits(group[f"{name}/roi_features"], features)
        for array in (*ARRAYS, "sizes"):
            assert_same_bits(group[f"{name}/{array}"], getattr(split, array))


def test_chunks_of_zeros_are_written(records, sentences, tmp_path):
    """Else who reads strictly would miss them, and negative zeros would lose their sign."""
    features = np.zeros((3, 8), np.float32)
    features[1] = -0.0
    nothing = {name: np.zeros_like(getattr(records[0], name)) for name in ARRAYS}
    records = [dataclasses.replace(r, roi_features=features, **nothing) for r in records]
    place = str(tmp_path / "store")
    write(place, records, sentences, tmp_path)
    split = open_store(place).split("train")
    group = zarr.open_group(place, mode="r")["train"]
    read = np.concatenate([split.read_shard(k) for k in range(split.num_shards)])
    assert np.signbit(read[:, 1]).all()
    assert_same_bits(group["roi_features"], read)
    for array in ARRAYS:
        assert_same_bits(group[array], getattr(split, array))


def test_plain_zarr_sees_damage_too(tiny_store, tmp_path):
    copy = Path(shutil.copytree(tiny_store, tmp_path / "store"))
    chunk = copy / "train" / "roi_features" / "c" / "0" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[9] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        zarr.open_group(str(copy), mode="r")["train/roi_features"][:]


def test_sentences_may_come_in_any_order(records, sentences, tmp_path):
    order = np.random.default_rng(5).permutation(len(sentences))
    shuffled = [sentences[k] for k in order]
    write(str(tmp_path / "store"), records, shuffled, tmp_path)
    split = open_store(str(tmp_path / "store")).split("train")
    table = split.sentences
    assert np.all(np.diff(table.image_rows.astype(np.int64)) >= 0)
    token_ids, lengths = table.tokens(
        np.arange(table.num_pairs), max_tokens=20, cls_id=2, sep_id=3, pad_id=0
    )
    for row, record in enumerate(records):
        span = range(split.image_offsets[row], split.image_offsets[row + 1])
        given = [s for s in shuffled if s.image_id == record.image_id]
        assert table.uids(list(span)) == [s.uid for s in given]
        found = [token_ids[p, 1 : lengths[p] - 1].tolist() for p in span]
        assert found == [list(s.token_ids) for s in given]


def test_a_finished_store_is_not_replaced_by_accident(place, records, sentences, tmp_path):
    assert not has_store(place)
    first = write(place, records, sentences, tmp_path)
    assert has_store(place)
    with pytest.raises(StoreError, match="finished store"):
        write(place, records, sentences, tmp_path)
    assert open_store(place).digest == first
    second = write(
        place,
        records[:5],
        [s for s in sentences if s.image_id < "image 5"],
        tmp_path,
        overwrite=True,
    )
    assert second != first
    assert open_store(place).split("train").num_images == 5


def test_the_same_input_gives_the_same_digest(records, sentences, tmp_path):
    one = write(str(tmp_path / "one"), records, sentences, tmp_path)
    assert write(str(tmp_path / "two"), records, sentences, tmp_path) == one


def test_a_place_with_other_things_is_left_alone(records, sentences, tmp_path):
    (tmp_path / "store").mkdir()
    precious = tmp_path / "store" / "thesis.tex"
    precious.write_text("years")
    with pytest.raises(StoreError, match="not a store"):
        write(str(tmp_path / "store"), records, sentences, tmp_path)
    assert precious.read_text() == "years"


def test_the_tokenizer_comes_back_byte_for_byte(tiny_store, tmp_path):
    directory = open_store(tiny_store).tokenizer_dir()
    made = make_tokenizer(tmp_path / "made")
    for name in ("vocab.txt", "tokenizer.json"):
        assert (directory / name).read_bytes() == (made / name).read_bytes()


def test_sources_are_counted(tiny_store):
    entry = open_store(tiny_store).manifest.splits["train"]
    assert set(entry.sources) == set(SOURCES)
    assert sum(entry.sources.values()) == entry.num_pairs
    filesystem, _ = fsspec.url_to_fs(tiny_store)
    assert filesystem.exists(f"{tiny_store}/manifest.json")
