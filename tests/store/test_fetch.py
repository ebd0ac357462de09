"""Feature objects through a server that misbehaves, by either backend; hedges; and counts."""

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import zarr
from fsspec.asyn import get_loop
from s3fs import S3FileSystem

from fault_proxy import FaultProxy, FlipBit, Late, Refuse, Reset, Stall, Truncate
from lxmert_dist.errors import ConfigError, CorruptObjectError, StoreError
from lxmert_dist.store import fetch, open_store
from lxmert_dist.store import uri as uris
from lxmert_dist.store.chunks import encode_chunk
from lxmert_dist.store.fetch import Fetcher
from lxmert_dist.store.manifest import ChunkEntry
from lxmert_dist.store.read_settings import ReadSettings
from tiny_store import make_tiny_store

KEY = "train/roi_features/c/0/0/0"
BACKENDS = ("fsspec", "obstore")


@dataclass(frozen=True)
class Shelf:
    """One object of 256 KiB, and whoever fetches it."""

    uri: str
    data: bytes
    backend: str = "fsspec"

    @property
    def entry(self) -> ChunkEntry:
        return ChunkEntry.of(KEY, self.data)

    def fetcher(self, patience_s: float = 30.0) -> Fetcher:
        return Fetcher(self.uri, ReadSettings(self.backend, patience_s))

    def fetch(self, fetcher: Fetcher | None = None) -> bytes:
        buffer = bytearray(len(self.data))
        (fetcher or self.fetcher()).fetch(self.entry, memoryview(buffer))
        return bytes(buffer)


def make_shelf(uri: str, backend: str = "fsspec") -> Shelf:
    values = np.random.default_rng(5).integers(0, 2**16, (4, 4, 8192), dtype=np.uint16)
    data = encode_chunk(values)
    uris.write_bytes(uris.join(uri, KEY), data)
    return Shelf(uri, data, backend)


@pytest.fixture(params=BACKENDS)
def shelf(request, s3, proxy: FaultProxy, tmp_path) -> Shelf:
    """Behind the proxy."""
    return make_shelf(s3.uri(f"shelf-{tmp_path.name}"), request.param)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GET is doubled after 0.2 s."""
    monkeypatch.setattr(fetch, "HEDGE_AFTER_S", 0.2)


@pytest.mark.s3
@pytest.mark.parametrize("backend", BACKENDS)
def test_features_are_what_zarr_reads_in_strict_mode(s3, tmp_path, backend):
    uri = s3.uri(tmp_path.name)
    make_tiny_store(uri, images=50)
    split = open_store(uri, ReadSettings(backend)).split("train")
    ours = np.concatenate([split.read_shard(k) for k in range(split.num_shards)])
    with zarr.config.set({"array.read_missing_chunks": False}):
        theirs = zarr.open_group(uri, mode="r")["train/roi_features"][:]
    assert ours.dtype == theirs.dtype
    assert ours.tobytes() == theirs.tobytes()


PASSING = {
    "slow_down": (Refuse(503, "SlowDown"), "throttled"),
    "too_many": (Refuse(429, "TooManyRequests"), "throttled"),
    "internal": (Refuse(500, "InternalError"), "server"),
    "reset": (Reset(), "reset"),
    "truncated": (Truncate(), "short"),
    "looks_whole": (Truncate(looks_whole=True), "corrupt"),
    "flipped": (FlipBit(), "corrupt"),
}


@pytest.mark.s3
@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(("fault", "cause"), PASSING.values(), ids=PASSING)
def test_what_passes_is_asked_for_anew_and_counted(proxy, shelf, fault, cause):
    rule = proxy.spoil(KEY, fault, times=2)
    fetcher = shelf.fetcher()
    assert shelf.fetch(fetcher) == shelf.data
    assert rule.hits.total() == 2
    assert proxy.gets(KEY).total() == 3
    counts = fetcher.stats.take()
    failed = {name: n for name, n in counts.items() if name.startswith("failed_")}
    assert set(failed) == {f"failed_{cause}"}
    assert failed[f"failed_{cause}"] in ({1, 2} if cause == "reset" else {2}), (
        "aiohttp by itself asks again, once, where it was a kept connection that broke"
    )
    assert (counts["gets"], counts["bytes"]) == (1, len(shelf.data))


@pytest.mark.s3
@pytest.mark.usefixtures("hurried")
def test_a_reset_in_the_middle_of_a_body_passes(proxy, shelf):
    proxy.spoil(KEY, Reset(midway=True), times=2)
    assert shelf.fetch() == shelf.data


FATAL = {
    "missing": (Refuse(404, "NoSuchKey"), CorruptObjectError, f"{KEY} is missing"),
    "denied": (Refuse(403, "AccessDenied"), uris.DeniedError, r"\(AccessDenied\); check AWS_"),
    "clock": (Refuse(403, "RequestTimeTooSkewed"), uris.DeniedError, "set this machine's clock"),
    "expired": (Refuse(400, "ExpiredToken"), uris.DeniedError, "renew the credentials"),
    "no_bucket": (Refuse(404, "NoSuchBucket"), StoreError, "there is no such bucket"),
}


@pytest.mark.s3
@pytest.mark.parametrize(("fault", "error", "message"), FATAL.values(), ids=FATAL)
def test_what_does_not_pass_is_asked_for_once(proxy, shelf, fault, error, message):
    proxy.spoil(KEY, fault)
    with pytest.raises(error, match=message) as caught:
        shelf.fetch()
    assert KEY in str(caught.value)
    assert proxy.gets(KEY).total() == 1


@pytest.mark.s3
@pytest.mark.usefixtures("hurried")
def test_lasting_damage_is_named_after_a_few_reads(proxy, shelf):
    proxy.spoil(KEY, FlipBit())
    with pytest.raises(CorruptObjectError, match=f"{KEY} is damaged: its checksum does not match"):
        shelf.fetch()
    assert proxy.gets(KEY).total() == uris.CORRUPT_ATTEMPTS


@pytest.mark.s3
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_endpoint_that_is_gone_is_named(s3, backend, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    S3FileSystem.clear_instance_cache()
    shelf = Shelf(s3.uri("gone"), encode_chunk(np.ones((1, 4))), backend)
    with pytest.raises(uris.UnreachableError, match=f"cannot reach .*{KEY}: .*check the endpoint"):
        shelf.fetch(shelf.fetcher(patience_s=0.5))


class Trickle(BaseHTTPRequestHandler):
    """A byte of the body now and then: never silent for long, and never done."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(1 << 20))
        self.end_headers()
        while not self.server.stopped.wait(0.05):  # type: ignore[attr-defined]
            try:
                self.wfile.write(b"x")
            except OSError:
                return

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def trickling() -> Iterator[str]:
    """The endpoint of a server that trickles."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Trickle) as server:
        server.stopped = threading.Event()  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.stopped.set()  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()


@pytest.mark.s3
@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_body_that_trickles_ends_with_the_patience(s3, trickling, backend, monkeypatch):
    shelf = Shelf(s3.uri("slow"), encode_chunk(np.ones((1, 131072))), backend)
    monkeypatch.setenv("AWS_ENDPOINT_URL", trickling)
    monkeypatch.setattr(fetch, "REQUEST_S", 0.5)
    S3FileSystem.clear_instance_cache()
    fetcher, began = shelf.fetcher(patience_s=1.4), time.monotonic()
    with pytest.raises(uris.UnreachableError, match=r"no whole answer in 0\.5 s"):
        shelf.fetch(fetcher)
    assert time.monotonic() - began < 10
    assert fetcher.stats.take()["failed_timeout"] > 1, "it was asked for anew"


@pytest.mark.s3
@pytest.mark.usefixtures("eager")
def test_a_stalled_body_is_overtaken_by_a_second_get(proxy, shelf):
    fetcher, before = shelf.fetcher(), threads()
    proxy.spoil(KEY, Stall(), times=1)
    assert shelf.fetch(fetcher) == shelf.data
    counts = fetcher.stats.take()
    assert (counts["hedges"], counts["hedges_won"]) == (1, 1)
    assert not any(name.startswith("failed_") for name in counts)
    assert proxy.gets(KEY).total() == 2
    assert not under_way(), "the loser is cancelled"
    assert threads() <= before


@pytest.mark.s3
@pytest.mark.usefixtures("eager")
def test_an_answer_that_comes_too_late_touches_no_buffer(proxy, shelf):
    """The slab is somebody else's by then."""
    proxy.spoil(KEY, Late(1.0), times=1)
    buffer = bytearray(len(shelf.data))
    shelf.fetcher().fetch(shelf.entry, memoryview(buffer))
    assert buffer == shelf.data
    buffer[:] = bytes(len(buffer))
    time.sleep(1.3)
    assert not any(buffer)


@pytest.mark.s3
@pytest.mark.usefixtures("eager")
def test_a_damaged_hedge_does_not_win(proxy, shelf):
    proxy.spoil(KEY, Late(0.6), times=1)
    proxy.spoil(KEY, FlipBit(), times=1)
    fetcher = shelf.fetcher()
    assert shelf.fetch(fetcher) == shelf.data
    counts = fetcher.stats.take()
    assert (counts["hedges"], counts.get("hedges_won", 0)) == (1, 0)
    assert proxy.gets(KEY).total() == 2


@pytest.mark.s3
def test_an_error_leaves_no_thread_and_no_get(proxy, shelf):
    before = threads()
    proxy.spoil(KEY, Stall())
    with pytest.raises(uris.UnreachableError):
        shelf.fetch(shelf.fetcher(patience_s=0.3))
    assert not under_way()
    assert threads() <= before


def under_way() -> list[str]:
    """GETs on the event loop, after a moment in which cancelled ones end."""
    for _ in range(100):
        tasks = [task for task in asyncio.all_tasks(get_loop()) if not task.done()]
        if not tasks:
            break
        time.sleep(0.02)
    return [repr(task) for task in tasks]


def threads() -> set[str]:
    """Those that run, but for the proxy's and those in which an event loop looks names up."""
    others = ("process_request_thread", "asyncio_")
    names = {thread.name for thread in threading.enumerate()}
    return {name for name in names if not any(other in name for other in others)}


def test_few_gets_are_doubled_however_slow_they_are():
    pace = fetch._Pace()
    hedged = 0
    for done in range(1, 401):
        hedged += pace.may_hedge()
        pace.note(60.0)
        assert hedged <= fetch.HEDGED_FREELY + 0.05 * done
    assert hedged >= 20


def test_a_get_is_slow_by_the_measure_of_the_last_ones():
    pace = fetch._Pace()
    assert pace.limit_s() == fetch.HEDGE_AFTER_S
    for seconds in np.linspace(0.01, 0.2, 100):
        pace.note(float(seconds))
    assert pace.limit_s() == fetch.HEDGE_AFTER_S
    for _ in range(fetch.REMEMBERED):
        pace.note(2.0)
    assert pace.limit_s() == pytest.approx(6.0)


@pytest.mark.s3
@pytest.mark.parametrize("backend", BACKENDS)
def test_credentials_come_from_a_profile_too(s3, tmp_path, backend, monkeypatch):
    shelf = make_shelf(s3.uri(tmp_path.name), backend)
    keys = f"aws_access_key_id = {s3.access_key}\naws_secret_access_key = {s3.secret_key}\n"
    (tmp_path / "credentials").write_text(f"[mine]\n{keys}")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    S3FileSystem.clear_instance_cache()
    assert shelf.fetch() == shelf.data


@pytest.mark.s3
@pytest.mark.parametrize("backend", BACKENDS)
def test_wrong_and_absent_credentials_are_told(s3, tmp_path, backend, monkeypatch):
    shelf = make_shelf(s3.uri(tmp_path.name), backend)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(uris.DeniedError, match="check AWS_ACCESS_KEY_ID") as caught:
        shelf.fetch()
    assert "not-the-secret" not in str(caught.value)
    assert s3.access_key not in str(caught.value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    S3FileSystem.clear_instance_cache()
    with pytest.raises(uris.DeniedError, match="no complete credentials; set AWS_ACCESS_KEY_ID"):
        shelf.fetch()


@pytest.mark.s3
def test_keys_are_taken_as_they_are(s3, tmp_path):
    for prefix in ("a b", "é", "p%41", "a+b"):
        shelf = make_shelf(s3.uri(f"{tmp_path.name}/{prefix}"), "obstore")
        assert shelf.fetch() == shelf.data


def test_an_absent_obstore_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ConfigError, match=r"pip install 'lxmert_dist\[obstore\]'"):
        Fetcher("s3://bucket/x", ReadSettings("obstore"))
    Fetcher("memory://x", ReadSettings("obstore"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("place", ["disk", "memory"])
def test_what_is_not_on_s3_stays_with_fsspec(place, backend, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    uri = str(tmp_path) if place == "disk" else f"memory://{tmp_path.name}"
    shelf = make_shelf(uri, backend)
    fetcher = shelf.fetcher(patience_s=0.2)
    assert shelf.fetch(fetcher) == shelf.data
    uris.write_bytes(uris.join(uri, KEY), shelf.data[:-4])
    with pytest.raises(CorruptObjectError, match=f"{KEY} has .* bytes, the manifest says"):
        shelf.fetch(fetcher)
    uris.write_bytes(uris.join(uri, KEY), bytes(len(shelf.data)))
    with pytest.raises(CorruptObjectError, match=f"{KEY} is damaged"):
        shelf.fetch(fetcher)
    uris.delete_tree(uris.join(uri, KEY))
    with pytest.raises(CorruptObjectError, match=f"{KEY} is missing"):
        shelf.fetch(fetcher)
