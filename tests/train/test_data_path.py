"""A run through the cache and in bounded memory trains on the same, and says what it read."""

import json
import logging
import uuid
from pathlib import Path

import pytest

from lxmert_dist.errors import ConfigError, StoreError
from lxmert_dist.schema import StepBatch
from lxmert_dist.train.meter import Clock, Progress
from lxmert_dist.train.reading import Reading
from lxmert_dist.train.world import World
from runs import ledger, pretrain
from tiny_store import make_tiny_store


@pytest.fixture(scope="module")
def remote() -> str:
    uri = f"memory://{uuid.uuid4().hex}"
    make_tiny_store(uri)
    return uri


@pytest.fixture(scope="module")
def expected(remote, tmp_path_factory) -> list[dict]:
    return pretrain(tmp_path_factory.mktemp("plain"), remote)


def metrics(directory: Path) -> list[dict]:
    """The lines that have metrics of training."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    found = [line.get("metrics", line) for line in lines]
    return [line for line in found if "data/bytes_per_pair" in line]


def test_a_cached_run_trains_on_the_same_and_reads_nothing_twice(remote, expected, tmp_path):
    settings = (f"data.cache={tmp_path / 'cache'}", "data.memory_gib=0.01")
    assert pretrain(tmp_path / "cold", remote, *settings) == expected
    assert pretrain(tmp_path / "warm", remote, *settings) == expected
    cold, warm = (metrics(tmp_path / name) for name in ("cold", "warm"))
    assert len(cold) == len(warm) == 3  # 12 steps, logged every 4
    assert sum(line["data/bytes_per_pair"] for line in cold) > 0
    assert sum(line["data/bytes_per_pair"] for line in warm) == 0
    assert sum(line["data/cache_hits"] for line in warm) > 10
    assert [line["data/order_hash"] for line in cold] == [
        float(int(entry["identity"], 16) % 2**52) for entry in expected[3::4]
    ]
    for line in cold:
        assert line["data/window_bytes"] > 0
        assert line["data/wait_seconds"] >= 0
        assert line["data/images_per_second"] > 0
        assert line["data/repeats_per_batch"] >= 0


def test_too_little_memory_is_refused_before_anything_is_trained(remote, tmp_path):
    with pytest.raises(ConfigError, match=r"data.memory_gib=\S+ is too little.* at least 0.001"):
        pretrain(tmp_path, remote, "data.memory_gib=0.000001")
    assert not ledger(tmp_path)


def test_a_cache_that_cannot_be_used_is_refused(remote, tmp_path):
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(StoreError, match=r"data.cache=.*/file as a cache"):
        pretrain(tmp_path / "run", remote, f"data.cache={tmp_path / 'file'}")


def test_a_run_goes_on_when_the_cache_breaks(remote, expected, tmp_path, monkeypatch, caplog):
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lxmert_dist.store.cache.os.pwrite", broken)
    with caplog.at_level(logging.WARNING):
        entries = pretrain(tmp_path / "run", remote, f"data.cache={tmp_path / 'cache'}")
    assert entries == expected
    assert sum("No space left" in message for message in caplog.messages) == 1


def test_rates_of_what_was_read():
    reading, clock = Reading(), Clock()
    for step in range(2):
        batch = StepBatch(0, step, [], images=30 + step, repeats=step)
        reading.add(batch)
        clock.add(0.5, 0.25)
    reading.pairs = 64
    reading.identity = 2**60 + 5
    assert reading.metrics({"bytes": 640.0, "get_p50_s": 3.0}, clock, World()) == {
        "wait_seconds": 0.25,
        "images_per_second": 61 / 1.5,
        "bytes_per_second": 640 / 1.5,
        "bytes_per_pair": 10.0,
        "repeats_per_batch": 0.5,
        "order_hash": 5.0,
        "bytes": 640.0,
        "get_p50_s": 3.0,
    }


def test_the_progress_line_tells_of_waiting_reading_and_trouble(capsys):
    metrics = {"pairs_per_second": 100.4, "data_wait_share": 0.0125, "matching": 0.5}
    data = {"bytes_per_pair": 2913.0, "failed_server": 2.0, "failed_timeout": 1.0}
    with Progress(4, 0, enabled=True) as progress:
        progress.show(metrics, ["matching", "masked_lm"], data)
        progress.advance()
    line = capsys.readouterr().err
    assert "100 pairs/s, wait 1.2%, 2.91 KB/pair, 3 failed reads, matching 0.500" in line
