"""One fetch a node, whole or not at all, never over its bound, and never in the way of a run."""

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from kept_objects import SIZE, Objects

from lxmert_dist.errors import StoreError
from lxmert_dist.store import cache as caching
from lxmert_dist.store.cache import NEVER, DiskCache

FAR = 1e6


@pytest.fixture
def clock(monkeypatch):
    """The time that the cache sees; starts at 1000."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(caching.time, "time", lambda: Clock.now)
    return Clock


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {".lock"}


def kept(directory: Path, objects: Objects) -> set[int]:
    return {k for k, entry in enumerate(objects.entries) if (directory / entry.sha256).exists()}


def test_an_object_is_fetched_once_and_then_read(tmp_path):
    objects = Objects(3)
    for attempt in range(3):
        cache = DiskCache(tmp_path / "new" / "cache")
        for number in range(3):
            assert objects.read(cache, number) == objects.data[number]
        assert cache.counts["hits"] == (3 if attempt else 0)
    assert set(objects.fetched.values()) == {1}
    assert names(tmp_path / "new" / "cache") == {entry.sha256 for entry in objects.entries}


def test_a_file_tells_its_next_use(tmp_path, clock):
    objects, cache = Objects(1), DiskCache(tmp_path)
    path = tmp_path / objects.entries[0].sha256
    for next_use in (5000.5, 7000.25, 6000.0, NEVER):
        objects.read(cache, 0, next_use)
        assert path.stat().st_mtime == next_use
    objects.read(cache, 0, float("inf"))
    assert path.stat().st_mtime == NEVER
    objects.read(cache, 0, None)
    assert path.stat().st_mtime == clock.now + caching.UNPLANNED_S


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:100] + bytes([data[100] ^ 16]) + data[101:],
        lambda data: data[:-5],
        lambda data: data + b"\0",
        lambda data: b"",
        lambda data: bytes(len(data)),
    ],
    ids=["flipped bit", "short", "long", "empty", "zeros"],
)
def test_a_damaged_file_is_fetched_anew(tmp_path, caplog, damage):
    objects, cache = Objects(2), DiskCache(tmp_path)
    objects.read(cache, 0)
    path = tmp_path / objects.entries[0].sha256
    path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):
        assert objects.read(cache, 0) == objects.data[0]
    assert path.read_bytes() == objects.data[0]
    assert objects.fetched[0] == 2
    assert cache.counts == {"hits": 1, "misses": 2, "damaged": 1, "evicted": 0}
    assert "damaged" in caplog.text
    assert path.name in caplog.text


def test_another_object_in_the_place_of_one_is_seen(tmp_path):
    objects, cache = Objects(2), DiskCache(tmp_path)
    (tmp_path / objects.entries[0].sha256).write_bytes(objects.data[1])
    assert objects.read(cache, 0) == objects.data[0]


def test_a_failed_fetch_leaves_nothing_and_says_what_it_says(tmp_path):
    objects, cache = Objects(1), DiskCache(tmp_path)

    def fetch(entry, buffer):
        raise StoreError("no answer")

    with pytest.raises(StoreError, match="no answer"):
        objects.read(cache, 0, fetch=fetch)
    assert names(tmp_path) == set()
    assert objects.read(cache, 0) == objects.data[0]


def test_threads_fetch_an_object_once(tmp_path):
    objects, cache = Objects(4), DiskCache(tmp_path)
    barrier = threading.Barrier(8)

    def read(reader: int) -> bool:
        barrier.wait()
        order = np.random.default_rng(reader).permutation(4).tolist()
        return all(objects.read(cache, k) == objects.data[k] for k in order)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(8)))
    assert objects.fetched == {0: 1, 1: 1, 2: 1, 3: 1}


def test_who_waits_in_vain_fetches_for_itself(tmp_path):
    objects = Objects(1)
    slow, other = DiskCache(tmp_path), DiskCache(tmp_path, patience_s=0.1)
    fetching, go_on = threading.Event(), threading.Event()

    def fetch(entry, buffer):
        fetching.set()
        assert go_on.wait(30)
        objects.fetch(entry, buffer)

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(objects.read, slow, 0, None, fetch)
        assert fetching.wait(30)
        assert objects.read(other, 0) == objects.data[0]
        assert kept(tmp_path, objects) == set()
        go_on.set()
        assert first.result() == objects.data[0]
    assert kept(tmp_path, objects) == {0}


def belady(reads: list[int], capacity: int) -> int:
    """Misses of the best possible cache that may also keep nothing of what it reads."""
    inside: set[int] = set()
    misses = 0
    for place, number in enumerate(reads):
        if number in inside:
            continue
        misses += 1
        coming = reads[place + 1 :]
        inside.add(number)
        if len(inside) > capacity:
            inside.remove(max(inside, key=lambda k: coming.index(k) if k in coming else FAR))
    return misses


@pytest.mark.parametrize("capacity", [1, 3, 5, 8])
def test_a_bounded_cache_evicts_as_the_best_possible_one(tmp_path, clock, capacity):
    objects, cache = Objects(8), DiskCache(tmp_path, limit_bytes=capacity * SIZE + 7)
    rng = np.random.default_rng(3)
    reads = rng.integers(8, size=60).tolist()
    for place, number in enumerate(reads):
        clock.now = 1000.0 + place
        coming = reads[place + 1 :]
        distance = 1 + coming.index(number) if number in coming else FAR
        assert objects.read(cache, number, clock.now + distance) == objects.data[number]
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= capacity * SIZE + 7
    assert cache.counts["misses"] == sum(objects.fetched.values()) == belady(reads, capacity)


def test_what_is_long_overdue_goes_first(tmp_path, clock):
    objects, cache = Objects(3), DiskCache(tmp_path, limit_bytes=2 * SIZE)
    objects.read(cache, 0, 1100)
    objects.read(cache, 1, 2500)
    clock.now = 2000.0
    objects.read(cache, 2, 2600)
    assert kept(tmp_path, objects) == {1, 2}


def test_what_would_be_evicted_at_once_is_not_kept(tmp_path, clock):
    objects, cache = Objects(3), DiskCache(tmp_path, limit_bytes=2 * SIZE)
    for number, next_use in enumerate([1100, 1200, 1200]):
        objects.read(cache, number, next_use)
    assert kept(tmp_path, objects) == {0, 1}
    assert cache.counts["evicted"] == 0


def test_room_is_made_for_objects_that_are_still_being_fetched(tmp_path, clock):
    """Two fetches at once must not both take the last place."""
    objects, cache = Objects(3), DiskCache(tmp_path, limit_bytes=2 * SIZE)
    objects.read(cache, 0, 9000)

    def fetch(entry, buffer):
        objects.read(cache, 2, 3000)
        objects.fetch(entry, buffer)

    objects.read(cache, 1, 2000, fetch)
    assert kept(tmp_path, objects) == {1, 2}
    assert cache.counts["evicted"] == 1


def test_an_object_that_never_fits_is_not_kept(tmp_path):
    objects, cache = Objects(1), DiskCache(tmp_path, limit_bytes=SIZE - 1)
    assert objects.read(cache, 0) == objects.data[0]
    assert names(tmp_path) == set()


def test_files_of_others_are_left_alone(tmp_path, clock):
    objects = Objects(3)
    (tmp_path / "thesis.tex").write_bytes(bytes(5 * SIZE))
    (tmp_path / ("0" * 63)).write_text("short")
    cache = DiskCache(tmp_path, limit_bytes=SIZE)
    for number in range(3):
        objects.read(cache, number, 2000 - number)
    assert kept(tmp_path, objects) == {2}
    assert names(tmp_path) > {"thesis.tex", "0" * 63}


# Processes


@contextmanager
def job(directory: Path, order: str, *how: str):
    """``cache_job.py``, as far as "ready"."""
    tests = Path(__file__).parent
    root = str(tests.parents[1])
    with subprocess.Popen(
        [sys.executable, str(tests / "cache_job.py"), str(directory), order, *how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def start(*jobs: subprocess.Popen) -> None:
    for process in jobs:
        process.stdin.write("\n")
        process.stdin.flush()


def report(process: subprocess.Popen) -> dict:
    return json.loads(process.communicate(timeout=60)[0].splitlines()[-1])


@pytest.mark.distributed
def test_two_processes_fetch_each_object_once(tmp_path):
    with job(tmp_path, "0,1,2,3,4,5,6,7", "slow") as one, job(tmp_path, "0,2,1,3,4,7,6,5") as two:
        start(one, two)
        reports = [report(one), report(two)]
    assert sorted(reports[0]["fetched"] + reports[1]["fetched"]) == list(range(8))
    assert reports[0]["hits"] + reports[1]["hits"] == 8
    assert len(names(tmp_path)) == 8


@pytest.mark.distributed
def test_a_kill_in_the_middle_of_a_write_leaves_nothing_wrong(tmp_path):
    objects = Objects(8)
    part = tmp_path / f"{objects.entries[3].sha256}.part"
    with job(tmp_path, "3", "die") as killed, job(tmp_path, "3,4") as living:
        start(killed)
        assert killed.wait(timeout=60) == -signal.SIGKILL
        assert part.stat().st_size == SIZE
        assert part.read_bytes() != objects.data[3]
        start(living)  # what the other left is in its way
        assert report(living)["fetched"] == [3, 4]
    assert kept(tmp_path, objects) == {3, 4}
    assert not part.exists()


def test_starting_clears_what_killed_writers_left_but_not_what_living_ones_write(tmp_path):
    objects, cache = Objects(2), DiskCache(tmp_path)
    left = tmp_path / f"{objects.entries[1].sha256}.part"
    left.write_bytes(b"half")
    living = tmp_path / f"{objects.entries[0].sha256}.part"

    def fetch(entry, buffer):
        DiskCache(tmp_path)
        assert living.exists()
        assert not left.exists()
        objects.fetch(entry, buffer)

    objects.read(cache, 0, fetch=fetch)
    assert kept(tmp_path, objects) == {0}


# Trouble with the disk


def reads_on(cache: DiskCache, objects: Objects, caplog, expected: str) -> None:
    """Everything is read right, and there is one warning."""
    with caplog.at_level(logging.WARNING):
        for number in [*range(len(objects.data))] * 2:
            assert objects.read(cache, number) == objects.data[number]
    assert [expected in message for message in caplog.messages] == [True]


@contextmanager
def small_disk(path: Path, size: str):
    """A tmpfs; only root may mount one."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_run_goes_on_when_the_disk_is_full(tmp_path, caplog):
    objects = Objects(8)
    with small_disk(tmp_path / "disk", "256k"):
        cache = DiskCache(tmp_path / "disk")
        objects.read(cache, 0)
        (tmp_path / "disk" / "other").write_bytes(bytes(256 * 1024 - 2 * 20480))
        assert caching.shutil.disk_usage(tmp_path / "disk").free < 2 * SIZE
        caching_share = caching.FREE_SHARE
        try:
            caching.FREE_SHARE = -1.0  # as if others took the space after it was looked for
            reads_on(cache, objects, caplog, "No space left")
        finally:
            caching.FREE_SHARE = caching_share
        assert names(tmp_path / "disk") >= {"other", objects.entries[0].sha256}
        assert not [name for name in names(tmp_path / "disk") if name.endswith(".part")]
        assert cache.counts["hits"] >= 2


def test_a_disk_is_not_filled_to_the_brim(tmp_path, caplog, clock):
    objects = Objects(8)
    with small_disk(tmp_path / "disk", "100k"):
        cache = DiskCache(tmp_path / "disk")
        for number in range(8):
            assert objects.read(cache, number, 2000 - number) == objects.data[number]
        free = caching.shutil.disk_usage(tmp_path / "disk").free
        assert free >= 100 * 1024 * caching.FREE_SHARE
        assert kept(tmp_path / "disk", objects) == {4, 5, 6, 7}  # 20 KiB each
    assert not caplog.messages


def test_a_disk_without_room_at_the_start_is_said(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(caching, "FREE_SHARE", 1.0)
    reads_on(DiskCache(tmp_path), Objects(2), caplog, f"data.cache={tmp_path}")
    assert names(tmp_path) == set()


def test_a_run_goes_on_when_files_may_not_grow(tmp_path, caplog):
    """As with a quota; the limit is of this process."""
    objects, cache = Objects(3), DiskCache(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE - 1, before[1]))
    try:
        reads_on(cache, objects, caplog, "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == set()
    assert sum(objects.fetched.values()) == 6


def test_a_run_goes_on_when_the_directory_is_gone(tmp_path, caplog):
    objects, cache = Objects(2), DiskCache(tmp_path / "cache")
    (tmp_path / "cache" / ".lock").unlink()
    (tmp_path / "cache").rmdir()
    reads_on(cache, objects, caplog, "No such file")


def test_a_run_goes_on_when_the_disk_turns_read_only(tmp_path, caplog):
    objects = Objects(3)
    with small_disk(tmp_path / "disk", "256k"):
        cache = DiskCache(tmp_path / "disk")
        objects.read(cache, 0)
        remount = ["mount", "-o", "remount,ro", str(tmp_path / "disk")]
        subprocess.run(remount, check=True, capture_output=True)
        with pytest.raises(StoreError, match="Read-only"):
            DiskCache(tmp_path / "disk")
        reads_on(cache, objects, caplog, "Read-only")
        assert cache.counts["hits"] == 2


@pytest.mark.parametrize("kind", ["file", "under a file", "forbidden"])
def test_a_directory_that_cannot_be_used_is_named_at_the_start(tmp_path, kind):
    place = tmp_path / "place"
    match kind:
        case "file":
            place.write_text("no directory")
        case "under a file":
            (tmp_path / "file").write_text("no directory")
            place = tmp_path / "file" / "place"
        case "forbidden":
            place = Path("/proc/place") if os.geteuid() == 0 else Path("/place")
    with pytest.raises(StoreError, match=f"data.cache={place}"):
        DiskCache(place)
