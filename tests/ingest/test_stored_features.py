"""Sentences about the images of a store of features become a store of pairs."""

import json

import numpy as np
import pytest

from lxmert_dist.cli import prepare
from lxmert_dist.store import StoreWriter, open_store, verify
from lxmert_dist.store import uri as uris
from tiny_store import ATTRIBUTE_CLASSES, OBJECT_CLASSES, make_record, make_tokenizer

IMAGES = 150


def make_features(uri):
    """Images of 2 to 3 boxes in three objects; returns their records by name, rounded."""
    writer = StoreWriter(
        uri,
        num_objects=3,
        min_objects=2,
        feature_dim=8,
        object_classes=OBJECT_CLASSES,
        attribute_classes=ATTRIBUTE_CLASSES,
        answers=(),
        tokenizer_dir=None,
        extractor="made up",
    )
    rng = np.random.default_rng(0)
    split = writer.split("images")
    names = [f"photo/{number}" for number in rng.permutation(IMAGES)]
    records = {name: make_record(rng, name, 2 + i % 2, 8) for i, name in enumerate(names)}
    for record in records.values():
        split.append(record)
    split.close(())
    writer.finish()
    return records


@pytest.fixture
def line(tmp_path):
    """A command line without the features."""
    lines = [{"image_id": f"photo/{i}", "sentence": "ba be bi"} for i in range(0, IMAGES, 2)]
    lines.append({"image_id": "photo/1", "sentence": "ba?", "answers": {"yes": 1}})
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "held.jsonl").write_text(json.dumps({"image_id": "photo/3", "sentence": "bo"}))
    sentences = [str(tmp_path / name) for name in ("mine.jsonl", "held.jsonl")]
    return [
        *("own", "--sentences", *sentences, "--valid", "held", "--processes", "1"),
        *("--tokenizer", str(make_tokenizer(tmp_path / "tokenizer"))),
        *("--out", str(tmp_path / "store"), "--features"),
    ]


def test_pairs_of_stored_features(line, tmp_path, capsys):
    uri = str(tmp_path / "features")
    records = make_features(uri)
    assert prepare.main([*line, uri]) == 0, capsys.readouterr().err
    store = open_store(str(tmp_path / "store"))
    assert list(verify(store)) == []
    assert (store.spec.num_objects, store.manifest.min_objects) == (3, 2)
    assert store.object_classes == OBJECT_CLASSES
    assert store.manifest.extractor == "made up"  # by which a predictor knows its detector
    split = store.split("train")
    wanted = [name for name in records if int(name[6:]) % 2 == 0 or name == "photo/1"]
    assert split.image_ids == wanted  # in the order of the features
    assert store.split("valid").image_ids == ["photo/3"]
    features = np.concatenate([split.read_shard(shard) for shard in range(split.num_shards)])
    for row, name in enumerate(wanted):
        record, boxes = records[name], split.num_boxes[row]
        assert boxes == len(record.boxes)
        stored = record.roi_features.astype(np.float16)
        np.testing.assert_array_equal(features[row, :boxes], stored)
        np.testing.assert_array_equal(split.boxes[row, :boxes], record.boxes)
        np.testing.assert_array_equal(split.object_ids[row, :boxes], record.object_ids)
        scores = record.attribute_scores.astype(np.float16)
        np.testing.assert_array_equal(split.attribute_scores[row, :boxes], scores)
        assert split.sizes[row].tolist() == [record.height, record.width]


@pytest.mark.s3
def test_features_on_object_storage(line, s3, tmp_path):
    uri = s3.uri("features")
    make_features(uri)
    assert prepare.main([*line, uri]) == 0
    assert open_store(str(tmp_path / "store")).split("train").num_images == IMAGES // 2 + 1


def test_what_does_not_fit_is_said(line, tmp_path, capsys):
    uri = str(tmp_path / "features")
    make_features(uri)
    for more, said in (
        ([uri, "--boxes", "3"], "--boxes is known to the store of features; leave it out"),
        ([uri, "--extractor", "x"], "--extractor is known to the store"),
        ([uri, str(tmp_path / "tokenizer")], "--features must be one store"),
        ([f"file://{tmp_path}/nowhere"], "there is no feature store at"),
    ):
        assert prepare.main([*line, *more]) in (1, 2)
        assert said in capsys.readouterr().err


def test_a_damaged_object_is_named(line, tmp_path, capsys):
    uri = str(tmp_path / "features")
    make_features(uri)
    key = uris.join(uri, "images/roi_features/c/1/0/0")
    data = bytearray(uris.read_bytes(key))
    data[5] ^= 1
    uris.write_bytes(key, data)
    assert prepare.main([*line, uri]) == 1
    assert "images/roi_features/c/1/0/0 is damaged" in capsys.readouterr().err
