"""Damage and bad input are found, and named, before anybody computes with them."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lxmert_dist.errors import CorruptObjectError, StoreError
from lxmert_dist.store import open_store, verify
from lxmert_dist.store import uri as uris
from lxmert_dist.store.manifest import canonical_json
from tiny_store import make_tiny_store

CHUNK = "train/roi_features/c/2/0/0"


@pytest.fixture
def copy(tiny_store, tmp_path):
    return Path(shutil.copytree(tiny_store, tmp_path / "store"))


def flip(file: Path, at: int = 50) -> None:
    data = bytearray(file.read_bytes())
    data[at % len(data)] ^= 4
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_a_damaged_shard_is_named_and_the_others_stay_readable(copy, hurried, damage):
    damage(copy / CHUNK)
    store = open_store(str(copy))
    split = store.split("train")
    split.read_shard(1)
    with pytest.raises(CorruptObjectError, match=CHUNK):
        split.read_shard(2)
    assert [key for key, _ in verify(store)] == [CHUNK]


@pytest.mark.parametrize(
    "key", ["train/boxes/c/0/0/0", "train/sentences.arrow", "train/image_ids.arrow"]
)
@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_damaged_small_objects_are_named_when_the_split_is_opened(copy, hurried, key, damage):
    damage(copy / key)
    with pytest.raises(CorruptObjectError, match=key):
        open_store(str(copy)).split("train")


def test_a_changed_manifest_is_found(copy, hurried):
    (manifest,) = (copy / "manifests").iterdir()
    manifest.write_text(manifest.read_text().replace("random", "honest"))
    with pytest.raises(StoreError, match=r"manifests/.* was changed"):
        open_store(str(copy))


def test_missing_half_written_and_foreign_places_are_told_apart(copy, tmp_path):
    with pytest.raises(StoreError, match="no feature store"):
        open_store(str(tmp_path / "nothing"))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "x").write_text("x")
    with pytest.raises(StoreError, match="no feature store"):
        open_store(str(tmp_path / "foreign"))
    pointer = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**pointer, "schema_version": 2}))
    with pytest.raises(StoreError, match=r"schema version 2, .* reads version 1"):
        open_store(str(copy))
    (copy / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match=r"manifest\.json"):
        open_store(str(copy))
    (copy / "manifest.json").unlink()
    with pytest.raises(StoreError, match="half-written"):
        open_store(str(copy))


def test_an_unknown_split_lists_those_that_there_are(tiny_store):
    with pytest.raises(StoreError, match=r"test.*train.*valid"):
        open_store(tiny_store).split("minival")


@pytest.mark.parametrize(
    "key", ["zarr.json", "train/zarr.json", "valid/boxes/zarr.json", "tokenizer/vocab.txt"]
)
def test_damage_that_no_split_reads_is_found_by_verify(copy, hurried, key):
    flip(copy / key, 3)
    assert [found for found, _ in verify(open_store(str(copy)))] == [key]


def test_verify_names_every_damaged_object_and_what_is_wrong(copy, hurried):
    store = open_store(str(copy))
    assert list(verify(store)) == []
    keys = [entry.key for entry in store.manifest.all_objects()]
    on_disk = {f.relative_to(copy).as_posix() for f in copy.rglob("*") if f.is_file()}
    assert set(keys) == on_disk - {"manifest.json", f"manifests/{store.digest}.json"}
    chosen = keys[:: max(1, len(keys) // 6)]
    expected = {}
    for k, key in enumerate(chosen):
        (flip, cut, Path.unlink)[k % 3](copy / key)
        expected[key] = ("damaged", "the manifest says", "missing")[k % 3]
    problems = dict(verify(store))
    assert set(problems) == set(chosen)
    for key, problem in problems.items():
        assert key in problem
        assert expected[key] in problem


@pytest.mark.parametrize("name", ["objects", "attributes", "answers"])
@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_damaged_vocabularies_are_named_when_the_store_is_opened(copy, hurried, name, damage):
    damage(copy / "vocabularies" / f"{name}.json")
    with pytest.raises(CorruptObjectError, match=f"vocabularies/{name}.json"):
        open_store(str(copy))


def test_a_damaged_tokenizer_is_named_when_it_is_asked_for(copy, hurried):
    flip(copy / "tokenizer" / "tokenizer.json")
    store = open_store(str(copy))
    with pytest.raises(CorruptObjectError, match=r"tokenizer/tokenizer\.json is damaged"):
        store.tokenizer_dir()


def test_a_manifest_that_is_gone_or_of_another_shape_is_named(copy):
    pointer = copy / "manifest.json"
    (manifest,) = (copy / "manifests").iterdir()
    tree = json.loads(manifest.read_text())
    manifest.unlink()
    with pytest.raises(CorruptObjectError, match=f"manifests/{manifest.name} is missing"):
        open_store(str(copy))
    del tree["splits"]["train"]["sentences"]
    data = canonical_json(tree)
    digest = hashlib.sha256(data).hexdigest()
    (copy / "manifests" / f"{digest}.json").write_bytes(data)
    pointer.write_text(json.dumps({"schema_version": 1, "digest": digest}))
    with pytest.raises(StoreError, match=r"is not a manifest \(splits\.train\.sentences"):
        open_store(str(copy))


def failing(times: int, error: Exception | None, whole=uris.read_once):
    """A GET that fails, or brings half a body, for the first ``times`` calls of a feature shard."""
    left = [times]

    def read(uri: str) -> bytes:
        data = whole(uri)
        if "roi_features/c" in uri and left[0]:
            left[0] -= 1
            if error:
                raise error
            return data[: len(data) // 2]
        return data

    return read


@pytest.fixture
def elsewhere(tmp_path) -> str:
    uri = f"memory://{tmp_path.name}/store"
    make_tiny_store(uri, images=40)
    return uri


@pytest.mark.parametrize("error", [uris.UnreachableError("cannot reach it: reset"), None])
def test_what_passes_is_tried_again(elsewhere, hurried, monkeypatch, error):
    split = open_store(elsewhere).split("train")
    expected = split.read_shard(0).copy()
    monkeypatch.setattr(uris, "read_once", failing(2, error))
    assert np.array_equal(split.read_shard(0), expected)


def test_what_does_not_pass_is_given_up(elsewhere, hurried, monkeypatch):
    split = open_store(elsewhere).split("train")
    monkeypatch.setattr(uris, "read_once", failing(100, None))
    with pytest.raises(CorruptObjectError, match="roi_features"):
        split.read_shard(0)
    calls = []

    def denied(uri: str) -> bytes:
        calls.append(uri)
        raise uris.DeniedError("cannot reach it: access denied")

    monkeypatch.setattr(uris, "read_once", denied)
    with pytest.raises(uris.DeniedError):
        split.read_shard(0)
    assert len(calls) == 1
