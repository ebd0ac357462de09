"""Stores on a real S3 server: what only a remote store can suffer, and what it leaves behind."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from s3fs import S3FileSystem

from lxmert_dist.errors import CorruptObjectError, StoreError
from lxmert_dist.store import ReadSettings, open_store, verify
from lxmert_dist.store import uri as uris
from tiny_store import make_tiny_store

SHARD = "train/roi_features/c/1/0/0"


@pytest.fixture
def remote(s3, tmp_path):
    """URI of a store of its own on the server."""
    uri = s3.uri(tmp_path.name)
    make_tiny_store(uri, images=50)
    return uri


@pytest.mark.s3
def test_missing_and_truncated_objects_are_named(remote):
    table = "valid/sentences.arrow"
    data = uris.read_bytes(uris.join(remote, table))
    uris.write_bytes(uris.join(remote, table), data[: len(data) // 2])
    shard = uris.read_bytes(uris.join(remote, SHARD))
    uris.write_bytes(uris.join(remote, SHARD), shard[:-1])
    store = open_store(remote)
    with pytest.raises(CorruptObjectError, match=f"{SHARD} has {len(shard) - 1} bytes"):
        store.split("train").read_shard(1)
    with pytest.raises(CorruptObjectError, match=f"{table} has .* bytes, the manifest says"):
        store.split("valid")
    uris.delete_tree(uris.join(remote, SHARD))
    with pytest.raises(CorruptObjectError, match=f"{SHARD} is missing"):
        store.split("train").read_shard(1)
    assert {key for key, _ in verify(store)} == {SHARD, table}


@pytest.mark.s3
def test_threads_read_what_one_thread_reads(remote):
    train = open_store(remote).split("train")
    expected = [train.read_shard(k) for k in range(train.num_shards)]
    with ThreadPoolExecutor(4) as pool:
        for k, shard in enumerate(pool.map(train.read_shard, list(range(train.num_shards)) * 4)):
            assert np.array_equal(shard, expected[k % train.num_shards])


@pytest.mark.s3
def test_an_endpoint_that_goes_down_ends_a_read(remote, monkeypatch):
    train = open_store(remote, ReadSettings(patience_s=0.5)).split("train")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(uris.UnreachableError, match=f"cannot reach .*{SHARD}.*check the endpoint"):
        train.read_shard(1)


@pytest.mark.s3
def test_a_store_is_prepared_again_where_one_was_deleted(remote):
    """The server keeps empty directories, which are no reason to refuse."""
    uris.delete_tree(remote)
    assert uris.list_dir(remote) != []
    with pytest.raises(StoreError, match="there is no feature store"):
        open_store(remote)
    make_tiny_store(remote, images=20)
    assert list(verify(open_store(remote))) == []


def test_local_copies_go_with_the_store(tmp_path):
    uri = f"memory://{tmp_path.name}"
    make_tiny_store(uri, images=20)
    store = open_store(uri)
    directory = store.tokenizer_dir()
    assert directory.is_dir()
    del store
    assert not directory.parent.exists()
