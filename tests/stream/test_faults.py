"""A real S3 server that misbehaves: training gets the same batches, or it stops and says why.

Every test goes the whole way from the bucket to the tensors of two epochs, and compares the list
of pairs and a digest of each micro-batch with those of a run on a local disk.
"""

import os
import threading
import time
from dataclasses import replace
from datetime import timedelta

import botocore.auth
import pytest
from fault_runs import DEFAULTS, FEATURES, SHARD, deliver, train_loader

from fault_proxy import FlipBit, Late, Refuse, Replace, Reset, Stall, Truncate, Vanish
from lxmert_dist.errors import CorruptObjectError, StoreError
from lxmert_dist.store import open_store
from lxmert_dist.store.read_settings import ReadSettings

pytestmark = [pytest.mark.s3, pytest.mark.usefixtures("hurried")]

OBSTORE = ReadSettings(backend="obstore")
BUT_POINTER = "(?<!/manifest.json)$"
"""Nothing vouches for the pointer to the manifest."""
EACH_KIND = r"manifest|answers|/boxes/|sentences|c/[1-4]/"
"""Some of everything that a store consists of."""
SOON_S = 30.0
"""A run whose patience is ``impatient`` must have stopped by then, also on a busy machine."""


PASSING = {
    "slow_down": Refuse(503, "SlowDown"),
    "unavailable": Refuse(503, "ServiceUnavailable"),
    "too_many": Refuse(429, "TooManyRequests"),
    "internal": Refuse(500, "InternalError"),
    "reset": Reset(),
    "reset_midway": Reset(midway=True),
    "truncated": Truncate(),
}


def test_the_proxy_itself_changes_nothing(proxy, bucket, undisturbed, settings):
    assert deliver(bucket, settings) == undisturbed
    assert len(proxy.gets(FEATURES)) == open_store(bucket).split("train").num_shards


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_what_passes_leaves_no_trace(proxy, bucket, undisturbed, fault):
    rule = proxy.spoil(EACH_KIND, fault, times=1)
    assert deliver(bucket) == undisturbed
    assert len(rule.hits) == 9


def test_what_passes_leaves_no_trace_by_obstore(proxy, bucket, undisturbed):
    rules = [
        proxy.spoil(f"{FEATURES}{shard}/", fault, times=2)
        for shard, fault in enumerate(PASSING.values())
    ]
    assert deliver(bucket, OBSTORE) == undisturbed
    assert all(rule.hits.total() == 2 for rule in rules)


def test_damage_after_many_refusals_is_read_anew_too(proxy, bucket, undisturbed):
    proxy.spoil(SHARD, Refuse(503, "SlowDown"), times=6)
    proxy.spoil(SHARD, FlipBit(), times=3)
    assert deliver(bucket) == undisturbed


def test_a_slow_answer_is_waited_for(proxy, bucket, undisturbed):
    proxy.spoil(SHARD, Late(0.5))
    assert deliver(bucket) == undisturbed


def test_a_body_that_stalls_is_given_up_and_asked_for_again(proxy, bucket, undisturbed, impatient):
    proxy.spoil(SHARD, Stall(), times=1)
    assert deliver(bucket, impatient) == undisturbed
    assert proxy.gets(SHARD).total() == 2


def test_a_body_that_stalls_is_overtaken_by_another_get(proxy, bucket, undisturbed, settings):
    """Long before a real run's timeouts."""
    proxy.spoil(SHARD, Stall(), times=1)
    assert deliver(bucket, settings) == undisturbed
    stalled, second, *_ = [request.began for request in proxy.requests if SHARD in request.key]
    assert 0.9 < second - stalled < 10


def test_thirty_seconds_without_service_are_waited_out(proxy, bucket, undisturbed):
    rule = proxy.spoil("", Refuse(503, "ServiceUnavailable"), after=20, seconds=30)
    started = time.monotonic()
    assert deliver(bucket) == undisturbed
    assert time.monotonic() - started > 30
    assert all(FEATURES in key for key in rule.hits), "the store was open by then"


def test_the_same_bytes_under_another_etag_are_the_same(proxy, bucket, undisturbed):
    proxy.spoil("", Replace(), after=20)
    assert deliver(bucket) == undisturbed


LASTING = {
    "flipped": (FlipBit(), "(is damaged: its checksum does not match)"),
    "reset": (Reset(), ""),
    "reset_midway": (Reset(midway=True), ""),
    "truncated": (Truncate(), ""),
    "looks_whole": (Truncate(looks_whole=True), r"(has \d+ bytes, the manifest says|is damaged)"),
    "stalled": (Stall(), ""),
    "missing": (Refuse(404, "NoSuchKey"), "is missing"),
    "slow_down": (Refuse(503, "SlowDown"), ".*SlowDown"),
    "denied": (Refuse(403, "AccessDenied"), r".*\(AccessDenied\)"),
}


BY_OBSTORE = ("looks_whole", "stalled", "missing", "slow_down")


@pytest.mark.parametrize(
    ("backend", "lasting"),
    [*(("fsspec", name) for name in LASTING), *(("obstore", name) for name in BY_OBSTORE)],
)
def test_what_lasts_for_one_object_stops_the_run(proxy, bucket, impatient, backend, lasting):
    fault, cause = LASTING[lasting]
    proxy.spoil(SHARD, fault)
    stops(bucket, StoreError, f"{SHARD}:? {cause}", replace(impatient, backend=backend))


@pytest.mark.parametrize("hides_checksums", [False, True])
def test_an_object_that_changes_for_good_stops_the_run(proxy, bucket, wide_store, hides_checksums):
    """In the second epoch: its length and its own CRC are right, and yet it is another."""
    proxy.hides_checksums = hides_checksums
    other = (wide_store / FEATURES / "4/0/0").read_bytes()
    rule = proxy.spoil(SHARD, Replace(other), after=1)
    stops(bucket, CorruptObjectError, f"{SHARD} is damaged: its checksum does not match")
    assert 1 < rule.hits.total() < 6, "read anew a few times, not until the patience ends"


@pytest.mark.parametrize("hides_checksums", [False, True])
def test_damage_in_transit_is_read_anew(proxy, bucket, undisturbed, settings, hides_checksums):
    """Every object's; whether the client or the manifest finds it."""
    proxy.hides_checksums = hides_checksums
    flips = proxy.spoil(BUT_POINTER, FlipBit(), times=1)
    cuts = proxy.spoil(BUT_POINTER, Truncate(looks_whole=True), times=1)
    assert deliver(bucket, settings) == undisturbed
    assert min(len(flips.hits), len(cuts.hits)) > 20


CREDENTIALS = [
    (DEFAULTS, 400, "ExpiredToken"),
    (DEFAULTS, 403, "ExpiredToken"),
    (DEFAULTS, 403, "InvalidAccessKeyId"),
    (DEFAULTS, 403, "RequestTimeTooSkewed"),
    (OBSTORE, 400, "ExpiredToken"),
    (OBSTORE, 403, "InvalidAccessKeyId"),
]


@pytest.mark.parametrize(("settings", "status", "code"), CREDENTIALS)
def test_credentials_that_end_stop_the_run_at_once(proxy, bucket, settings, status, code):
    """With the patience of a real run, which does not apply."""
    rule = proxy.spoil("", Refuse(status, code), after=25)
    message = stops(bucket, StoreError, rf"{FEATURES}\d+/0/0.*\({code}\)", settings)
    assert set(rule.hits.values()) == {1}, "asking again cannot help"
    for secret in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert os.environ[secret] not in message


@pytest.mark.parametrize("backend", ["fsspec", "obstore"])
def test_an_endpoint_that_is_gone_stops_the_run(proxy, bucket, impatient, backend):
    proxy.spoil(SHARD, Vanish())
    message = stops(bucket, StoreError, SHARD, replace(impatient, backend=backend))
    assert "check the endpoint" in message


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_client_whose_clock_is_wrong_is_told_so(s3, bucket, monkeypatch, hours):
    """Refused by the server itself, without the proxy."""
    right = botocore.auth.get_current_datetime

    def wrong(*arguments, **named):
        return right(*arguments, **named) + timedelta(hours=hours)

    monkeypatch.setattr(botocore.auth, "get_current_datetime", wrong)
    stops(bucket, StoreError, "RequestTimeTooSkewed.*clock")


def test_threads_end_with_the_epochs_and_when_the_loop_is_left(bucket, s3):
    threads = set(threading.enumerate())
    store = open_store(bucket)
    with train_loader(store) as loader:
        assert sum(1 for _ in loader) > 20
        assert not readers(threads, "loader"), "the epochs are over"
    assert not readers(threads)
    with train_loader(store) as loader:
        next(iter(loader))
        assert readers(threads, "loader")
    assert not readers(threads)


def stops(
    uri: str, error: type[StoreError], message: str, settings: ReadSettings = DEFAULTS
) -> str:
    """A run must end with this error before long, and its threads with it; returns its text."""
    started, threads = time.monotonic(), set(threading.enumerate())
    with pytest.raises(error, match=message) as caught:
        deliver(uri, settings)
    assert time.monotonic() - started < SOON_S
    assert not readers(threads)
    return str(caught.value)


def readers(before: set[threading.Thread], names: str = "") -> list[str]:
    """Threads that a run has started and not ended, but for the event loop that fsspec keeps."""
    others = ("fsspecIO", "asyncio_", "Thread-")  # the last are the proxy's
    new = [t.name for t in set(threading.enumerate()) - before if not t.name.startswith(others)]
    return [name for name in new if name.startswith(names)]
