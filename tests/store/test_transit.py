"""What goes wrong on the wire, from a server that misbehaves by a script."""

import collections
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from s3fs import S3FileSystem

from lxmert_dist.errors import CorruptObjectError
from lxmert_dist.store import open_store
from lxmert_dist.store import uri as uris

OBJECT = b"0123456789" * 10


class Server(ThreadingHTTPServer):
    """Answers the first GETs of a key by its ``faults``, then serves ``objects``.

    A fault is ``reset``, ``short`` (the body ends early), ``flipped`` (one bit of the body is
    wrong), or the status and the code of an S3 error.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: dict[str, list[str | tuple[int, str]]] = {}
        self.objects: dict[str, bytes] = {"x": OBJECT}
        self.requests: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        key = self.path.split("?")[0].removeprefix("/bucket/")
        self.server.requests.append(key)
        faults = self.server.faults.get(key)
        fault = faults.pop(0) if faults else None
        body = self.server.objects.get(key)
        if fault == "reset":
            self.close_connection = True
        elif isinstance(fault, tuple):
            self.answer(fault[0], f"<Error><Code>{fault[1]}</Code></Error>".encode())
        elif body is None:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        elif fault == "short":
            self.answer(200, body, len(body) // 2)
            self.close_connection = True
        elif fault == "flipped":
            self.answer(200, bytes([body[0] ^ 1]) + body[1:])
        else:
            self.answer(200, body)

    def do_HEAD(self) -> None:
        self.answer(200, self.server.objects[self.path.removeprefix("/bucket/")], 0)

    def answer(self, status: int, body: bytes, sent: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:sent])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the-key-id")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        S3FileSystem.clear_instance_cache()
        yield server
        S3FileSystem.clear_instance_cache()
        server.shutdown()
        thread.join()


@pytest.fixture
def served(server: Server, tiny_store: str) -> Server:
    """A server of the tiny store."""
    root = Path(tiny_store)
    for file in root.rglob("*"):
        if file.is_file():
            server.objects[file.relative_to(root).as_posix()] = file.read_bytes()
    return server


@pytest.mark.parametrize(
    "fault",
    [
        "reset",
        "short",
        (503, "SlowDown"),
        (503, "ServiceUnavailable"),
        (500, "InternalError"),
        (429, "TooManyRequests"),
        (504, "GatewayTimeout"),
    ],
)
def test_what_passes_is_asked_for_until_it_comes(server, hurried, fault):
    server.faults["x"] = [fault, fault]
    assert uris.read_bytes("s3://bucket/x") == OBJECT
    assert server.requests == ["x"] * 3, "one layer retries, and no size is asked for"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ((403, "AccessDenied"), uris.DeniedError),
        ((403, "InvalidAccessKeyId"), uris.DeniedError),
        ((400, "ExpiredToken"), uris.DeniedError),
        ((404, "NoSuchKey"), uris.MissingError),
    ],
)
def test_what_does_not_pass_is_asked_for_once(server, fault, error):
    server.faults["x"] = [fault] * 3
    with pytest.raises(error, match="s3://bucket/x") as caught:
        uris.read_bytes("s3://bucket/x")
    assert server.requests == ["x"]
    assert "the-secret" not in str(caught.value)
    assert "the-key-id" not in str(caught.value)


def test_patience_ends(server):
    server.faults["x"] = ["reset"] * 1000
    with pytest.raises(uris.UnreachableError, match=r"cannot reach s3://bucket/x.*check the endp"):
        uris.read_bytes("s3://bucket/x", patience_s=0.3)
    assert 1 < len(server.requests) < 20, "it backs off instead of hammering"


def test_a_server_that_never_answers_is_given_up(server, monkeypatch):
    """The read timeout bounds an attempt: no attempt may begin after the patience is over."""
    options = {**uris._S3_OPTIONS["config_kwargs"], "read_timeout": 1}
    assert uris._S3_OPTIONS["config_kwargs"]["read_timeout"] + uris.PATIENCE_S < 30
    monkeypatch.setitem(uris._S3_OPTIONS, "config_kwargs", options)
    answered = threading.Event()
    monkeypatch.setattr(Handler, "do_GET", lambda self: answered.wait(20))
    try:
        with pytest.raises(uris.UnreachableError, match="cannot reach s3://bucket/x"):
            uris.read_bytes("s3://bucket/x", patience_s=0.1)
    finally:
        answered.set()


@pytest.mark.parametrize("fault", ["short", "flipped"])
def test_every_object_of_a_store_survives_two_bad_bodies(served, hurried, tiny_store, fault):
    served.faults = {key: [fault, fault] for key in served.objects}
    if fault == "flipped":
        del served.faults["manifest.json"]  # nothing vouches for the pointer
    remote = open_store("s3://bucket")
    remote.tokenizer_dir()
    shard = remote.split("train").read_shard(1)
    assert shard.tobytes() == open_store(tiny_store).split("train").read_shard(1).tobytes()
    asked = collections.Counter(served.requests)
    assert set(asked.values()) <= {3, 1 if fault == "flipped" else 3}
    wanted = ["manifests/", "vocabularies/answers", "tokenizer/vocab", "train/boxes/c/0"]
    wanted += ["train/image_ids", "train/sentences", "train/roi_features/c/1/"]
    for part in wanted:
        assert [n for key, n in asked.items() if part in key] == [3], part


def test_a_shard_is_one_request(served):
    train = open_store("s3://bucket").split("train")
    served.requests.clear()
    train.read_shard(2)
    assert served.requests == ["train/roi_features/c/2/0/0"]


def test_lasting_damage_is_read_a_few_times_then_named(served, hurried):
    train = open_store("s3://bucket").split("train")
    key = "train/roi_features/c/2/0/0"
    served.objects[key] = served.objects[key][:-8] + bytes(8)
    served.requests.clear()
    with pytest.raises(CorruptObjectError, match=f"{key} is damaged.*s3://bucket"):
        train.read_shard(2)
    assert served.requests == [key] * uris.CORRUPT_ATTEMPTS


def test_a_download_that_ends_early_is_repeated(tmp_path, hurried, monkeypatch):
    """As s3fs does it: half a file, and no error."""
    uri = f"memory://{tmp_path.name}/object"
    uris.write_bytes(uri, OBJECT)
    whole, calls = MemoryFileSystem.get_file, []

    def halved(self, source, target, *args, **kwargs):
        whole(self, source, target, *args, **kwargs)
        calls.append(source)
        if len(calls) < 3:
            Path(target).write_bytes(OBJECT[:50])

    monkeypatch.setattr(MemoryFileSystem, "get_file", halved)
    uris.download(uri, tmp_path / "local")
    assert (tmp_path / "local").read_bytes() == OBJECT
    assert len(calls) == 3


def test_pauses_are_jittered_and_bounded(monkeypatch):
    pauses: list[float] = []
    now = [0.0]
    monkeypatch.setattr(uris.time, "monotonic", lambda: now[0])

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    def fail() -> None:
        raise uris.UnreachableError("cannot reach it")

    monkeypatch.setattr(uris.time, "sleep", sleep)
    with pytest.raises(uris.UnreachableError):
        uris.retry(fail, patience_s=30.0)
    assert len(np.unique(pauses)) == len(pauses) > 10
    assert all(0 <= pause <= min(2.0, 0.2 * 2**k) for k, pause in enumerate(pauses))
    assert now[0] <= 30.0
