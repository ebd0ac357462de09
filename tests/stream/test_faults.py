"""A real S3 server that misbehaves: training gets the same batches, or it stops and says why.

Every test goes the whole way from the bucket to the tensors of two epochs, and compares the list
of pairs and a digest of each micro-batch with those of a run on a local disk.
"""

import os
import random
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import botocore.auth
import pytest
from fault_runs import Delivered, deliver
from s3fs import S3FileSystem

from fault_proxy import (
    FaultProxy,
    FlipBit,
    Late,
    Refuse,
    Replace,
    Reset,
    Stall,
    Truncate,
    Vanish,
    fault_proxy,
)
from lxmert_dist.errors import CorruptObjectError, StoreError
from lxmert_dist.store import open_store
from lxmert_dist.store import uri as uris
from s3_server import S3Server
from tiny_store import make_tiny_store

pytestmark = pytest.mark.s3

FEATURES = "train/roi_features/c/"
SHARD = f"{FEATURES}3/0/0"
BUT_POINTER = "(?<!/manifest.json)$"
"""Nothing vouches for the pointer to the manifest."""
SOON_S = 15.0
"""A run whose patience is ``impatient`` must have stopped by then, also on a busy machine."""


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose feature objects, of 64 KiB, take several reads of a socket."""
    path = tmp_path_factory.mktemp("faults") / "store"
    sizes = {"images": 100, "images_per_shard": 8, "objects": 4, "feature_dim": 1024}
    make_tiny_store(str(path), **sizes)
    return path


@pytest.fixture(scope="module")
def expected(local: Path) -> Delivered:
    """What a run without faults is given."""
    run = deliver(str(local))
    assert len(set(run.digests)) == len(run.digests) > 40
    return run


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server, local: Path) -> str:
    """The URI of the same store on the server; nobody may write to it."""
    client = S3FileSystem(
        key=s3_server.access_key,
        secret=s3_server.secret_key,
        endpoint_url=s3_server.endpoint,
        skip_instance_cache=True,
    )
    for file in local.rglob("*"):
        if file.is_file():
            key = f"{s3_server.bucket}/faults/{file.relative_to(local)}"
            client.pipe_file(key, file.read_bytes())
    return s3_server.uri("faults")


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The way to the server."""
    with fault_proxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        S3FileSystem.clear_instance_cache()
        yield proxy


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses between attempts."""
    monkeypatch.setattr(
        random.SystemRandom, "uniform", lambda self, low, high: low + (high - low) / 20
    )


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that waits 1 s for an object, and 0.5 s for the next byte of it."""
    monkeypatch.setattr("lxmert_dist.store.split.READ_PATIENCE_S", 1.0)
    timeouts = {**uris._S3_OPTIONS["config_kwargs"], "read_timeout": 0.5}
    monkeypatch.setitem(uris._S3_OPTIONS, "config_kwargs", timeouts)


PASSING = {
    "slow_down": Refuse(503, "SlowDown"),
    "unavailable": Refuse(503, "ServiceUnavailable"),
    "too_many": Refuse(429, "TooManyRequests"),
    "internal": Refuse(500, "InternalError"),
    "reset": Reset(),
    "reset_midway": Reset(midway=True),
    "truncated": Truncate(),
}


def test_the_proxy_itself_changes_nothing(proxy, bucket, expected):
    assert deliver(bucket) == expected
    assert len(proxy.gets(FEATURES)) == open_store(bucket).split("train").num_shards


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_what_passes_leaves_no_trace(proxy, bucket, expected, fault):
    """The first answer for each object is spoilt, for the manifest and the sentences too."""
    rule = proxy.spoil("", fault, times=1)
    assert deliver(bucket) == expected
    assert len(rule.hits) > 20


def test_a_slow_answer_is_waited_for(proxy, bucket, expected):
    proxy.spoil(SHARD, Late(0.5))
    assert deliver(bucket) == expected


def test_a_body_that_stalls_is_given_up_and_asked_for_again(proxy, bucket, expected, impatient):
    rule = proxy.spoil(SHARD, Stall(), times=1)
    assert deliver(bucket) == expected
    assert rule.hits


def test_thirty_seconds_without_service_are_waited_out(proxy, bucket, expected):
    rule = proxy.spoil("", Refuse(503, "ServiceUnavailable"), after=20, seconds=30)
    started = time.monotonic()
    assert deliver(bucket) == expected
    assert time.monotonic() - started > 30
    assert all(FEATURES in key for key in rule.hits), "the store was open by then"


def test_the_same_bytes_under_another_etag_are_the_same(proxy, bucket, expected):
    proxy.spoil("", Replace(), after=20)
    assert deliver(bucket) == expected


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


@pytest.mark.parametrize(("fault", "cause"), LASTING.values(), ids=LASTING)
def test_what_lasts_for_one_object_stops_the_run(proxy, bucket, impatient, fault, cause):
    """It lasts from the second epoch on."""
    proxy.spoil(SHARD, fault, after=1)
    stops(bucket, StoreError, f"{SHARD}:? {cause}")


@pytest.mark.parametrize("hides_checksums", [False, True])
def test_an_object_that_changes_for_good_stops_the_run(proxy, bucket, local, hides_checksums):
    """In the second epoch: its length and its own CRC are right, and yet it is another."""
    proxy.hides_checksums = hides_checksums
    other = (local / FEATURES / "4/0/0").read_bytes()
    rule = proxy.spoil(SHARD, Replace(other), after=1)
    stops(bucket, CorruptObjectError, f"{SHARD} is damaged: its checksum does not match")
    assert 1 < rule.hits.total() < 6, "read anew a few times, not until the patience ends"


@pytest.mark.parametrize("hides_checksums", [False, True])
def test_damage_in_transit_is_read_anew(proxy, bucket, expected, hides_checksums):
    """Whether the client or the manifest finds it."""
    proxy.hides_checksums = hides_checksums
    flips = proxy.spoil(BUT_POINTER, FlipBit(), times=1)
    cuts = proxy.spoil(BUT_POINTER, Truncate(looks_whole=True), times=1)
    assert deliver(bucket) == expected
    assert min(len(flips.hits), len(cuts.hits)) > 20


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "ExpiredToken"),
        (403, "ExpiredToken"),
        (403, "InvalidAccessKeyId"),
        (403, "SignatureDoesNotMatch"),
        (403, "RequestTimeTooSkewed"),
    ],
)
def test_credentials_that_end_stop_the_run_at_once(proxy, bucket, status, code):
    """With the patience of a real run, which does not apply."""
    rule = proxy.spoil("", Refuse(status, code), after=25)
    message = stops(bucket, StoreError, rf"{FEATURES}\d+/0/0.*\({code}\)")
    assert set(rule.hits.values()) == {1}, "asking again cannot help"
    for secret in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert os.environ[secret] not in message


def test_an_endpoint_that_is_gone_stops_the_run(proxy, bucket, impatient):
    proxy.spoil("", Vanish(), after=25)
    message = stops(bucket, StoreError, FEATURES)
    assert "check the endpoint" in message


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_client_whose_clock_is_wrong_is_told_so(s3, bucket, monkeypatch, hours):
    """Refused by the server itself, without the proxy."""
    right = botocore.auth.get_current_datetime

    def wrong(*arguments, **named):
        return right(*arguments, **named) + timedelta(hours=hours)

    monkeypatch.setattr(botocore.auth, "get_current_datetime", wrong)
    stops(bucket, StoreError, "RequestTimeTooSkewed.*clock")


def stops(uri: str, error: type[StoreError], message: str) -> str:
    """A run must end with this error before long; returns its text."""
    started, threads = time.monotonic(), set(threading.enumerate())
    with pytest.raises(error, match=message) as caught:
        deliver(uri)
    assert time.monotonic() - started < SOON_S
    ours = ("loader", "shard-reader")
    assert not [t for t in set(threading.enumerate()) - threads if t.name.startswith(ours)]
    return str(caught.value)
