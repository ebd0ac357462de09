"""A Ray cluster that asks strangers for no token is not used unless the user says so."""

import contextlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from lxmert_dist.cluster import exposure
from lxmert_dist.cluster.exposure import check_exposure, connection_error
from lxmert_dist.errors import ClusterError
from lxmert_dist.redact import redact
from ray_heads import HOST, ray_head
from runs import ROOT, environment

SMALL_INGEST = ["synthetic", "--images", "64", "--boxes", "2", "--feature-dim", "8"]


@contextlib.contextmanager
def control_service(place: str, status: grpc.StatusCode | None):
    """Answers like Ray's own, or as it does to somebody without the token; yields the port."""

    def answer(_: bytes, context: grpc.ServicerContext) -> bytes:
        if status is not None:
            context.abort(status, "InvalidAuthToken")
        return b""

    class Service(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Service()])
    port = server.add_insecure_port(f"{place}:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


@pytest.fixture
def outer_address():
    found = exposure._outer_addresses()
    if not found:
        pytest.skip("this host has no address but its own loopback")
    return found[0]


def test_an_open_cluster_on_loopback_is_found_by_the_host_s_outer_address(outer_address):
    with control_service("0.0.0.0", None) as port, pytest.raises(ClusterError) as raised:
        check_exposure(f"127.0.0.2:{port}", allow_open=False, option="--allow-open")
    message = str(raised.value)
    assert f"{outer_address}:{port}" in message
    for advice in ("ray get-auth-token --generate", "RAY_AUTH_MODE=token", "--allow-open"):
        assert advice in message
    assert redact(message) == message, "advice is no secret"


def test_an_open_cluster_that_is_allowed_is_warned_of(outer_address, caplog):
    with control_service("0.0.0.0", None) as port:
        check_exposure(f"{outer_address}:{port}", allow_open=True, option="--allow-open")
    assert f"runs any code that is sent to {outer_address}:{port}" in caplog.text


@pytest.mark.parametrize(
    ("place", "status"),
    [("0.0.0.0", grpc.StatusCode.UNAUTHENTICATED), ("127.0.0.1", None)],
    ids=["asks for a token", "listens on loopback alone"],
)
def test_a_cluster_that_is_closed_to_strangers_is_taken_in_silence(place, status, caplog):
    with control_service(place, status) as port:
        check_exposure(f"127.0.0.1:{port}", allow_open=False, option="--allow-open")
    assert not caplog.records


def test_a_driver_without_the_token_is_told_what_to_set():
    with control_service("127.0.0.1", grpc.StatusCode.UNAUTHENTICATED) as port:
        problem = ConnectionError(f"Failed to connect to Ray cluster at 127.0.0.1:{port}")
        message = str(connection_error(problem))
    assert "RAY_AUTH_MODE=token" in message
    assert "RAY_AUTH_TOKEN_PATH" in message
    assert redact(message) == message, "advice is no secret"


def test_a_cluster_that_is_not_there_is_said_to_be_not_there():
    with control_service("127.0.0.1", None) as port:
        pass
    problem = ConnectionError(f"Failed to connect to Ray cluster at 127.0.0.1:{port}")
    assert "no Ray cluster is running" in str(connection_error(problem))


def prepare(out, address: str, env: dict[str, str], *more: str) -> subprocess.CompletedProcess:
    line = [sys.executable, "launch/prepare.py", *SMALL_INGEST, "--out", str(out), "--ray", *more]
    return subprocess.run(
        line,
        cwd=ROOT,
        env={**env, "RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_real_cluster_with_a_token_opens_to_its_bearer_alone(tmp_path):
    pytest.importorskip("ray")
    token = environment()
    stranger = {k: v for k, v in token.items() if not k.startswith("RAY_AUTH")}
    stranger["HOME"] = str(tmp_path)  # where no token is
    with ray_head(tmp_path, token) as head:
        for env in (stranger, {**token, "RAY_AUTH_TOKEN": "another"}):
            refused = prepare(tmp_path / "store", head.address, env)
            assert refused.returncode == 1, refused.stderr
            assert "RAY_AUTH_TOKEN_PATH" in refused.stderr.splitlines()[-1]
        done = prepare(tmp_path / "store", head.address, token)
        assert done.returncode == 0, done.stderr
        assert "asks nobody" not in done.stderr


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_real_cluster_without_a_token_is_used_only_where_that_is_allowed(tmp_path, outer_address):
    pytest.importorskip("ray")
    env = environment({"RAY_AUTH_MODE": "disabled"})
    with ray_head(tmp_path, env) as head:
        assert head.address.startswith(HOST)
        refused = prepare(tmp_path / "store", head.address, env)
        assert refused.returncode == 1, refused.stderr
        assert "RAY_AUTH_MODE=token" in refused.stderr.splitlines()[-1]
        allowed = prepare(tmp_path / "store", head.address, env, "--allow-open")
        assert allowed.returncode == 0, allowed.stderr
        assert f"sent to {outer_address}" in allowed.stderr
