"""Batches do not depend on the cache of the node, and the store is asked once for each object."""

import uuid
from collections import Counter
from pathlib import Path

import pytest
from test_memory import digest, everything

from lxmert_dist.store import ReadSettings, open_store
from lxmert_dist.store import uri as uris
from lxmert_dist.stream.loader import Loader, LoaderSettings, Rank, TrainingSteps, index_pairs
from lxmert_dist.stream.plan import PlanSettings
from tiny_store import make_tiny_store

PLAN = PlanSettings(lanes=4, window_shards=2, global_batch_size=32)
ALONE = Rank()
SETTINGS = LoaderSettings(micro_batch_size=32, prefetch_steps=2, read_ahead_steps=2)


@pytest.fixture(scope="module")
def uri():
    """A store that is elsewhere: 40 shards of 4 images."""
    uri = f"memory://{uuid.uuid4().hex}"
    make_tiny_store(uri, images_per_shard=4)
    return uri


@pytest.fixture
def asked(monkeypatch) -> Counter[str]:
    """How often the store was asked for each feature object."""
    found: Counter[str] = Counter()
    read = uris.read_once

    def counted(uri: str) -> bytes:
        if "roi_features/c" in uri:
            found[uri] += 1
        return read(uri)

    monkeypatch.setattr(uris, "read_once", counted)
    return found


def batches(uri, settings=None, *, seed=7, rank=ALONE, epochs=2) -> list[bytes]:
    train = open_store(uri, settings or ReadSettings()).split("train")
    node_lanes = None if settings is None else range(4)
    steps = TrainingSteps(
        train,
        index_pairs(train, ()),
        PLAN,
        SETTINGS,
        digest,
        seed,
        epochs,
        rank,
        node_lanes=node_lanes,
    )
    return everything(Loader(train, steps, SETTINGS))


def shard_bytes(uri: str) -> int:
    return open_store(uri).split("train").shard_bytes


@pytest.mark.parametrize("share", [0, 40, 15, 3, 0.5], ids=lambda share: f"{share} shards")
def test_batches_do_not_depend_on_the_cache(uri, tmp_path, share):
    bound = int(share * shard_bytes(uri)) + 3 if share else 0
    expected = batches(uri, epochs=4)
    for _ in range(2):
        assert (
            batches(uri, ReadSettings(cache=str(tmp_path), cache_bytes=bound), epochs=4) == expected
        )
        size = sum(path.stat().st_size for path in tmp_path.iterdir())
        assert size <= (bound or size)


def test_the_ranks_of_a_node_ask_once(uri, tmp_path, asked):
    settings = ReadSettings(cache=str(tmp_path))
    expected = [batches(uri, rank=Rank(rank, 2)) for rank in range(2)]
    asked.clear()
    assert [batches(uri, settings, rank=Rank(rank, 2)) for rank in range(2)] == expected
    assert set(asked.values()) == {1}
    assert len(asked) == 40


def test_two_jobs_with_different_seeds_share_what_was_fetched(uri, tmp_path, asked):
    settings = ReadSettings(cache=str(tmp_path))
    expected = [batches(uri, seed=seed) for seed in (1, 2)]
    asked.clear()
    assert [batches(uri, settings, seed=seed) for seed in (1, 2)] == expected
    assert set(asked.values()) == {1}


def test_two_jobs_on_a_bounded_cache_read_right(uri, tmp_path):
    settings = ReadSettings(cache=str(tmp_path), cache_bytes=12 * shard_bytes(uri))
    expected = [batches(uri, seed=seed, epochs=3) for seed in (1, 2)]
    for _ in range(2):
        assert [batches(uri, settings, seed=seed, epochs=3) for seed in (1, 2)] == expected


def test_a_bounded_cache_saves_its_share_of_every_epoch(uri, tmp_path, asked):
    """Where every epoch wants every shard, no cache has more hits an epoch than shards."""
    settings = ReadSettings(cache=str(tmp_path), cache_bytes=20 * shard_bytes(uri))
    batches(uri, epochs=5)
    without = sum(asked.values())
    asked.clear()
    batches(uri, settings, epochs=5)
    hits = without - sum(asked.values())
    assert hits >= 4 * 20 * 0.85


def test_a_local_store_is_not_cached(tiny_store, tmp_path):
    cached = tmp_path / "cache"
    train = open_store(tiny_store, ReadSettings(cache=str(cached))).split("train")
    train.read_shard(0)
    assert not cached.exists()
    assert "cache_hits" not in train.take_stats()


def test_what_was_read_is_counted(uri, tmp_path):
    train = open_store(uri, ReadSettings(cache=str(tmp_path))).split("train")
    for shard in (0, 1, 1):
        train.read_shard(shard)
    file = next(path for path in Path(tmp_path).iterdir() if len(path.name) == 64)
    file.write_bytes(b"")
    for shard in (0, 1):
        train.read_shard(shard)
    stats = train.take_stats()
    assert {name: stats[name] for name in stats if not name.startswith("get_")} == {
        "gets": 3, "bytes": 3 * train.shard_bytes, "cache_hits": 2,
        "cache_misses": 3, "cache_damaged": 1, "cache_evicted": 0,
    }  # fmt: skip
    assert train.take_stats()["bytes"] == 0
