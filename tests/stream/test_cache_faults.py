"""Faults on the near side: the node's cache, its disk, other jobs; and images of zeros alone."""

import logging
import multiprocessing
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from fault_runs import FEATURES, deliver, delivered, train_loader

import shared_memory
import tiny_store
from fault_proxy import Late
from lxmert_dist.errors import CorruptObjectError
from lxmert_dist.store import open_store
from lxmert_dist.store.read_settings import ReadSettings

spawn = multiprocessing.get_context("spawn")


@pytest.fixture
def cached(tmp_path: Path) -> ReadSettings:
    """With a cache that is empty."""
    return ReadSettings(cache=str(tmp_path / "cache"))


@pytest.mark.s3
def test_a_cache_asks_once_for_what_two_epochs_and_two_runs_need(
    proxy, bucket, undisturbed, cached
):
    for _ in range(2):
        assert deliver(bucket, cached) == undisturbed
        assert set(proxy.gets(FEATURES).values()) == {1}


@pytest.mark.s3
def test_a_full_cache_does_without_the_endpoint(proxy, bucket, undisturbed, cached):
    deliver(bucket, cached)
    store = open_store(bucket, cached)
    with train_loader(store) as loader:
        proxy.vanish()
        assert delivered(list(loader)) == undisturbed


@pytest.mark.s3
def test_a_cache_that_rots_is_fetched_anew(proxy, bucket, undisturbed, cached):
    deliver(bucket, cached)
    files = [file for file in Path(cached.cache).iterdir() if not file.name.startswith(".")]
    assert len(files) == len(proxy.gets(FEATURES)) > 8
    for file in files[:3]:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    os.truncate(files[3], 100)
    files[4].write_bytes(files[5].read_bytes())
    assert deliver(bucket, cached) == undisturbed
    assert sorted(proxy.gets(FEATURES).values()) == [1] * (len(files) - 5) + [2] * 5


@pytest.mark.s3
def test_a_cache_on_a_full_disk_is_done_without(proxy, bucket, undisturbed, cached, caplog):
    store = open_store(bucket, cached)
    shards = store.split("train").num_shards
    caplog.set_level(logging.WARNING)
    with files_of_at_most(40_000), train_loader(store) as loader:  # an object has 65,540 bytes
        assert delivered(list(loader)) == undisturbed
    assert proxy.gets(FEATURES).total() >= 2 * shards
    assert [cached.cache in message for message in caplog.messages] == [True]
    assert not list(Path(cached.cache).glob("*.part"))


@contextmanager
def files_of_at_most(limit: int) -> Iterator[None]:
    """As on a disk with a quota: no write goes further."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.s3
@pytest.mark.distributed
def test_two_jobs_on_one_cache_fetch_each_object_once(proxy, bucket, undisturbed, cached):
    """The other one is started by spawn, as by frameworks that cannot fork."""
    proxy.spoil(FEATURES, Late(0.3))  # so that they meet
    here, there = spawn.Pipe()
    child = spawn.Process(target=job, args=(there, bucket, cached))
    child.start()
    try:
        ready = train_loader(open_store(bucket, cached))
        assert here.recv() == "ready"
        here.send("go")
        with ready as loader:
            assert delivered(list(loader)) == undisturbed
        assert here.recv() == undisturbed
        child.join(20)
        assert child.exitcode == 0
    finally:
        child.kill()
    assert set(proxy.gets(FEATURES).values()) == {1}


@pytest.mark.s3
@pytest.mark.distributed
def test_sigkill_in_the_middle_of_a_cache_write_spoils_nothing(proxy, bucket, undisturbed, cached):
    named = shared_memory.names()
    here, there = spawn.Pipe()
    child = spawn.Process(target=job, args=(there, bucket, cached, 3))
    child.start()
    here.send("go")
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert not shared_memory.left_since(named)
    assert list(Path(cached.cache).glob("*.part"))
    asked = proxy.gets(FEATURES)
    assert deliver(bucket, cached) == undisturbed
    assert not list(Path(cached.cache).glob("*.part"))
    again = proxy.gets(FEATURES) - asked
    assert set(again.values()) == {1}
    assert len(again) >= open_store(bucket).split("train").num_shards - 3


def job(told: Connection, uri: str, settings: ReadSettings, die_at: int = 0) -> None:
    """Another process's run; it may die in the middle of its n-th write to the cache."""
    if die_at:
        write, writes = os.pwrite, iter(range(1, die_at + 1))

        def halved(descriptor: int, data: bytes, offset: int) -> int:
            if next(writes) < die_at:
                return write(descriptor, data, offset)
            write(descriptor, data[: len(data) // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError

        os.pwrite = halved
    ready = train_loader(open_store(uri, settings))
    told.send("ready")
    told.recv()
    with ready as loader:
        told.send(delivered(list(loader)))


@pytest.fixture
def blank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of images whose every feature is zero."""
    record = tiny_store.make_record

    def zeros(*arguments):
        image = record(*arguments)
        return replace(image, roi_features=np.zeros_like(image.roi_features))

    monkeypatch.setattr(tiny_store, "make_record", zeros)
    tiny_store.make_tiny_store(str(tmp_path / "blank"), images=60, images_per_shard=8)
    return tmp_path / "blank"


def test_zeros_are_stored_and_delivered_and_a_missing_object_is_not_taken_for_them(blank):
    store = open_store(str(blank))
    with train_loader(store) as loader:
        batches = [batch for step in loader for batch in step.micro_batches]
    assert len(batches) > 10
    assert not any(batch.inputs.roi_features.any() for batch in batches)
    assert not any(batch.targets.roi_features.any() for batch in batches)
    (blank / FEATURES / "2/0/0").unlink()
    with pytest.raises(CorruptObjectError, match=f"{FEATURES}2/0/0 is missing"):
        deliver(str(blank))
