"""A store on a real S3 server, a way to it that can be spoilt, and what a run should get."""

import hashlib
import random
from pathlib import Path

import pytest
from fault_runs import FEATURES, SHARD, Delivered, deliver

from lxmert_dist.store import uri as uris
from lxmert_dist.store.read_settings import ReadSettings
from s3_server import S3Server
from tiny_store import make_tiny_store


@pytest.fixture(scope="session")
def wide_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose feature objects, of 64 KiB, take several reads of a socket."""
    path = tmp_path_factory.mktemp("faults") / "store"
    sizes = {"images": 100, "images_per_shard": 8, "objects": 4, "feature_dim": 1024}
    make_tiny_store(str(path), **sizes)
    return path


@pytest.fixture(scope="session")
def undisturbed(wide_store: Path) -> Delivered:
    """What a run without faults is given."""
    run = deliver(str(wide_store))
    assert len(set(run.digests)) == len(run.digests) > 40
    return run


@pytest.fixture(scope="session")
def bucket(s3_server: S3Server, wide_store: Path) -> str:
    """The URI of the same store on the server; nobody may write to it."""
    return s3_server.upload(wide_store, "faults")


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses between attempts."""
    monkeypatch.setattr(
        random.SystemRandom, "uniform", lambda self, low, high: low + (high - low) / 20
    )


@pytest.fixture(params=["fsspec", "obstore"])
def settings(request: pytest.FixtureRequest) -> ReadSettings:
    """Of a real run, but for the backend."""
    return ReadSettings(backend=request.param)


@pytest.fixture
def impatient(wide_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReadSettings:
    """For a run that waits 2 s for an object, and 0.5 s for the next byte of it.

    A busy machine may take longer, so all objects but :data:`SHARD` are in the node's cache.
    """
    cache = tmp_path / "all_but_one"
    cache.mkdir()
    for file in (wide_store / FEATURES).rglob("*"):
        if file.is_file() and file != wide_store / SHARD:
            data = file.read_bytes()
            (cache / hashlib.sha256(data).hexdigest()).write_bytes(data)
    timeouts = {**uris._S3_OPTIONS["config_kwargs"], "read_timeout": 0.5}
    monkeypatch.setitem(uris._S3_OPTIONS, "config_kwargs", timeouts)
    return ReadSettings(patience_s=2.0, cache=str(cache))
