"""Fixtures that several rooms share."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3fs import S3FileSystem
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from fault_proxy import FaultProxy, fault_proxy
from s3_server import S3Server, ServerUnavailableError, serve_s3
from tiny_store import make_tiny_store

ROOT = Path(__file__).parent.parent


class ByFile(LoadScopeScheduling):
    """Workers share the tests by file, but one has all files that need the S3 server: a machine has
    room for one, since some of its ports are fixed.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "s3" if needs_s3(ROOT / file) else file


@functools.cache
def needs_s3(file: Path) -> bool:
    return "pytest.mark.s3" in file.read_text()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    return ByFile(config, log)


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a finished store of 200 images; nobody may write to it."""
    uri = str(tmp_path_factory.mktemp("tiny_store") / "store")
    make_tiny_store(uri)
    return uri


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The server itself; most tests want ``s3``."""
    try:
        with serve_s3(tmp_path_factory.mktemp("s3")) as server:
            yield server
    except ServerUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A running S3 server, with the environment that leads clients to it."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    yield s3_server
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The way to the server."""
    with fault_proxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        S3FileSystem.clear_instance_cache()
        yield proxy


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command; returns its exit code, what it printed, and its error."""

    def command(main: Callable[..., int], *line: object) -> tuple[int, str, str]:
        code = main([str(word) for word in line])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return command
