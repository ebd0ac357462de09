"""What a writer refuses, and what is left where one stopped half-way."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from lxmert_dist.errors import DataError, StoreError
from lxmert_dist.schema import Sentence
from lxmert_dist.store import StoreWriter, has_store, open_store, verify
from lxmert_dist.store import uri as uris
from tiny_store import make_record, make_tokenizer

SENTENCE = Sentence("image 0", "sentence 3", "captions", [5, 6], {})


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def begin(tokenizer, tmp_path):
    """Begins a store at ``tmp_path / "store"``; takes what shall differ."""

    def begin(**changes):
        settings = {
            "num_objects": 3,
            "feature_dim": 8,
            "object_classes": [f"object {i}" for i in range(12)],
            "attribute_classes": [f"attribute {i}" for i in range(7)],
            "answers": ["no", "yes"],
            "tokenizer_dir": tokenizer,
            "extractor": "random numbers",
            "images_per_shard": 2,
        }
        return StoreWriter(str(tmp_path / "store"), **{**settings, **changes})

    return begin


def changed(instance, changes):
    """A copy with other fields, past the check of types that only tests run."""
    copy = dataclasses.replace(instance)
    for name, value in changes.items():
        object.__setattr__(copy, name, value)
    return copy


def record(k=0, **changes):
    return changed(make_record(np.random.default_rng(k), f"image {k}", 3, 8), changes)


def finished(writer):
    split = writer.split("train")
    split.append(record())
    split.close([SENTENCE])
    return writer.finish()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_dtype": "bfloat16"}, "feature_dtype=bfloat16 must be"),
        ({"images_per_shard": 0}, "images_per_shard"),
        ({"answers": ["no", "yes", "no"]}, "'no' more than once"),
        ({"object_classes": ["x"] * 32_769}, "32769 objects"),
        ({"tokenizer_dir": Path("nowhere")}, "no tokenizer in nowhere"),
    ],
)
def test_settings_that_fit_no_store_are_named_before_anything_is_written(
    begin, tmp_path, changes, message
):
    with pytest.raises(DataError, match=message):
        begin(**changes)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", ["manifests", "tokenizer", "Train", "a/b", "", "1st"])
def test_names_that_no_split_can_have(begin, name):
    with pytest.raises(DataError, match="cannot name a split"):
        begin().split(name)


def test_a_store_is_not_finished_before_its_splits_are(begin, tmp_path):
    writer = begin()
    with pytest.raises(DataError, match="at least one split"):
        writer.finish()
    split = writer.split("train")
    with pytest.raises(DataError, match="a split 'train' already"):
        writer.split("train")
    with pytest.raises(DataError, match="'train' has no images"):
        split.close([SENTENCE])
    split.append(record())
    with pytest.raises(DataError, match="at least one sentence"):
        split.close([])
    with pytest.raises(DataError, match="'train' was not closed"):
        writer.finish()
    assert not has_store(str(tmp_path / "store"))


def test_a_closed_split_takes_nothing_more(begin, tmp_path):
    writer = begin()
    split = writer.split("train")
    split.append(record())
    split.close([SENTENCE])
    with pytest.raises(DataError, match="'train' is closed"):
        split.append(record(1))
    with pytest.raises(DataError, match="'train' is closed"):
        split.close([SENTENCE])
    writer.finish()
    store = open_store(str(tmp_path / "store"))
    assert store.split("train").image_ids == ["image 0"]
    assert list(verify(store)) == []


def test_a_half_written_store_is_replaced_and_leaves_nothing(begin, tmp_path):
    split = begin().split("attempt")
    for k in range(5):
        split.append(record(k))
    assert (tmp_path / "store" / "attempt" / "roi_features" / "c" / "1").exists()
    with pytest.raises(StoreError, match="half-written"):
        open_store(str(tmp_path / "store"))
    digest = finished(begin())
    assert open_store(str(tmp_path / "store")).digest == digest
    assert not (tmp_path / "store" / "attempt").exists()


def test_overwriting_leaves_nothing_of_the_old_store(begin, tmp_path):
    old = finished(begin(info={"attempt": 1}))
    new = finished(begin(info={"attempt": 2}, overwrite=True))
    assert old != new
    store = open_store(str(tmp_path / "store"))
    assert store.manifest.info == {"attempt": 2}
    root = tmp_path / "store"
    known = {entry.key for entry in store.manifest.all_objects()}
    found = {file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()}
    assert found - known == {"manifest.json", f"manifests/{new}.json"}
    assert known <= found


def test_the_pointer_is_the_last_that_is_written_and_every_object_is_written_once(
    begin, monkeypatch
):
    written: list[str] = []
    put = uris.write_bytes
    upload = uris.upload

    def write_bytes(uri, data):
        written.append(uri)
        put(uri, data)

    def upload_noted(source, uri):
        written.append(uri)
        upload(source, uri)

    monkeypatch.setattr(uris, "write_bytes", write_bytes)
    monkeypatch.setattr(uris, "upload", upload_noted)
    digest = finished(begin())
    assert written[-2].endswith(f"manifests/{digest}.json")
    assert written[-1].endswith("store/manifest.json")
    assert len(set(written)) == len(written)
    pointer = json.loads(Path(written[-1]).read_text())
    assert pointer == {"schema_version": 1, "digest": digest}


def test_a_store_whose_finish_failed_is_half_written(begin, tmp_path, monkeypatch):
    writer = begin()
    put = uris.write_bytes

    def failing(uri, data):
        if uri.endswith("store/manifest.json"):
            raise StoreError("no space left to write it")
        put(uri, data)

    monkeypatch.setattr(uris, "write_bytes", failing)
    with pytest.raises(StoreError, match="no space left"):
        finished(writer)
    monkeypatch.undo()
    with pytest.raises(StoreError, match=r"half-written.*run it again"):
        open_store(str(tmp_path / "store"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("boxes", np.full((3, 4), 1 + 2e-5, np.float32)),
        ("boxes", np.full((3, 4), -2e-5, np.float32)),
        ("boxes", np.full((3, 4), np.inf, np.float32)),
        ("boxes", np.zeros((2, 4), np.float32)),
        ("roi_features", np.full((3, 8), -np.inf, np.float32)),
        ("object_scores", np.full(3, 1.1, np.float32)),
        ("object_scores", np.full(3, np.nan, np.float32)),
        ("attribute_scores", np.zeros(4, np.float32)),
        ("object_ids", np.full(3, 12)),
        ("object_ids", np.full(3, -1)),
        ("attribute_ids", np.full(3, 7)),
    ],
)
def test_a_bad_field_is_named_with_its_image_and_not_stored(begin, tmp_path, field, value):
    writer = begin()
    split = writer.split("train")
    with pytest.raises(DataError, match=f"image 'image 0': {field} ") as caught:
        split.append(record(**{field: value}))
    assert "nan," not in str(caught.value)
    split.append(record())
    split.close([SENTENCE])
    writer.finish()
    assert open_store(str(tmp_path / "store")).split("train").num_images == 1


@pytest.mark.parametrize("field", ["boxes", "roi_features", "object_scores", "object_ids"])
def test_fields_of_another_kind_are_named(begin, field):
    wrong = getattr(record(), field).astype(np.float32 if field == "object_ids" else np.int64)
    with pytest.raises(DataError, match=f"image 'image 0': {field} is (float32|int64), expected"):
        begin().split("train").append(record(**{field: wrong}))


def test_rounding_of_a_detector_passes(begin):
    split = begin().split("train")
    split.append(record(boxes=np.full((3, 4), 1 + 5e-6, np.float32)))
    split.append(record(1, object_scores=np.full(3, -5e-6, np.float32)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": "image 9"}, "image 'image 9' is not in this split"),
        ({"token_ids": []}, "no tokens"),
        ({"token_ids": np.array([5.7, 6.2])}, "token_ids are float64"),
        ({"token_ids": np.array([[5, 6]])}, r"token_ids .*shape \(1, 2\)"),
        ({"token_ids": [5, -1]}, r"token ids in \[-1, 5\]"),
        ({"token_ids": [65]}, "the tokenizer has 65 tokens"),
        ({"answers": {"perhaps": 1.0}}, "'perhaps' is not in the answer table"),
        ({"answers": {"yes": 0.0}}, "score 0.0 of answer 'yes'"),
        ({"answers": {"yes": float("nan")}}, "score nan of answer 'yes'"),
    ],
)
def test_a_bad_sentence_is_named_with_its_uid(begin, changes, message):
    split = begin().split("train")
    split.append(record())
    with pytest.raises(DataError, match=f"sentence 'sentence 3'.*{message}"):
        split.close([SENTENCE, changed(SENTENCE, changes)])


def test_features_too_large_for_their_dtype_are_refused(begin):
    features = np.full((3, 8), 1e6, np.float32)
    with pytest.raises(DataError, match="image 'image 0': roi_features up to 1e\\+06 do not fit"):
        begin().split("train").append(record(roi_features=features))
    begin(feature_dtype="float32").split("train").append(record(roi_features=features))


def test_an_image_has_a_size_and_comes_once(begin):
    split = begin().split("train")
    with pytest.raises(DataError, match="image 'image 0': a size of 0 x"):
        split.append(record(height=0))
    split.append(record())
    with pytest.raises(DataError, match="image 'image 0' is twice in split 'train'"):
        split.append(record())


def test_too_many_sources_are_refused(begin):
    split = begin().split("train")
    split.append(record())
    sentences = [dataclasses.replace(SENTENCE, source=f"source {k}") for k in range(257)]
    with pytest.raises(DataError, match="'source 256' is one too many"):
        split.close(sentences)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt"])
def test_a_tokenizer_that_cannot_be_loaded_is_named(begin, tmp_path, name):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / name).write_text("{")
    with pytest.raises(DataError, match=r"tokenizer in .*broken"):
        begin(tokenizer_dir=tmp_path / "broken")
