"""Whether strangers could run code on a Ray cluster, which they may unless it asks for a token."""

import ipaddress
import logging
import re
import socket
from typing import Any

from lxmert_dist.errors import ClusterError

_ASK_SECONDS = 5.0
_ADVICE = (
    "make a token by `ray get-auth-token --generate`, copy ~/.ray/auth_token to every node, and "
    "set RAY_AUTH_MODE=token wherever nodes are started and jobs are submitted"
)
_log = logging.getLogger(__name__)


def check_exposure(gcs_address: str, *, allow_open: bool, option: str) -> None:
    """Refuse a cluster that takes work from anyone who reaches it from outside this host.

    What is asked is the cluster itself, as a stranger would: Ray's control service listens on all
    addresses of the head, whatever address the head was told to have, and the mode of this process
    may be another than the cluster's.

    Args:
        gcs_address: ``host:port`` of the cluster's control service.
        allow_open: warn instead.
        option: what allows it, for the error.

    Raises:
        ClusterError: says where the door is, and how to close it.
    """
    host, _, port = gcs_address.rpartition(":")
    places = [host, *_outer_addresses()]
    doors = [f"{place}:{port}" for place in dict.fromkeys(places) if not _is_loopback(place)]
    door = next((door for door in doors if _answer(door) == "open"), None)
    if door is None:
        return
    problem = f"the Ray cluster runs any code that is sent to {door}, and asks nobody for a token"
    if not allow_open:
        raise ClusterError(
            f"{problem}. Stop it, {_ADVICE}. Where a firewall keeps strangers out: {option}"
        )
    _log.warning("warning: %s", problem)


def connection_error(error: Exception) -> ClusterError:
    """What to tell a user whose ``ray.init`` failed: no cluster, or one that wants a token.

    Ray itself says the same of both.
    """
    text = str(error).strip().splitlines()[0]
    address = re.search(r"\bat (?:address: )?(\S+:\d+)", text)
    if type(error).__name__ == "AuthenticationError" or (
        address and _answer(address[1]) == "guarded"
    ):
        return ClusterError(
            "the Ray cluster asks for a token that this process has not: set RAY_AUTH_MODE=token, "
            "and RAY_AUTH_TOKEN_PATH to the file that the head was started with (by default "
            "~/.ray/auth_token)"
        )
    return ClusterError(
        f"no Ray cluster is running here nor at RAY_ADDRESS; start one with ray start: {text}"
    )


def _answer(address: str) -> str:
    """What a control service says to somebody without a token: open, guarded or silent."""
    import grpc

    # A proxy for the web is none for this.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        ask: Any = channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")
        try:
            ask(b"", timeout=_ASK_SECONDS)
        except grpc.RpcError as error:
            denied = error.code() in (
                grpc.StatusCode.UNAUTHENTICATED,
                grpc.StatusCode.PERMISSION_DENIED,
            )
            return "guarded" if denied else "silent"
    return "open"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _outer_addresses() -> list[str]:
    """Of this host, those that other hosts would reach it by; nothing is sent."""
    found = []
    for family, somewhere in (
        (socket.AF_INET, "192.0.2.1"),
        (socket.AF_INET6, "2001:db8::1"),
    ):
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((somewhere, 9))
            except OSError:
                continue  # no way out by this family
            host = probe.getsockname()[0]
        found.append(f"[{host}]" if family is socket.AF_INET6 else host)
    return found
