"""The nodes of a Ray cluster: reaching them, and what they have room for."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lxmert_dist
from lxmert_dist.cluster.exposure import check_exposure, connection_error
from lxmert_dist.config import ClusterConfig
from lxmert_dist.errors import ClusterError

_SHOWN = 8
"""Nodes that an error lists."""


def connect(asked: str, *, log_to_driver: bool, allow_open: bool, option: str) -> None:
    """Connect ``ray`` to the cluster here or at RAY_ADDRESS.

    The package is sent to the nodes; its dependencies must be there.

    Args:
        asked: the option that needs Ray, for the error.
        log_to_driver: whether what workers print is shown here.
        allow_open: take a cluster that asks strangers for no token, see ``exposure``.
        option: what sets ``allow_open``, for the error.

    Raises:
        ClusterError: Ray is absent, out of reach, or open to strangers.
    """
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # 20 take minutes on a dead head
    try:
        import ray
    except ImportError as error:
        raise ClusterError(f"{asked} needs Ray: pip install 'lxmert_dist[ray]'") from error
    if not ray.is_initialized():
        package = str(Path(lxmert_dist.__file__).parent)
        try:
            ray.init(
                address="auto",
                log_to_driver=log_to_driver,
                runtime_env={"py_modules": [package]},
            )
        except (ConnectionError, RuntimeError, ray.exceptions.AuthenticationError) as error:
            raise connection_error(error) from error
    check_exposure(ray.get_runtime_context().gcs_address, allow_open=allow_open, option=option)


def shortage(cluster: ClusterConfig, nodes: Sequence[Mapping[str, Any]]) -> str:
    """What the nodes lack to start the fewest workers, or "" where they have room.

    Room counts what a node has in all, also where another job holds it.

    Args:
        cluster: how many workers, and what each takes.
        nodes: as ``ray.nodes()`` gives them.
    """
    wanted = cluster.resources
    offers = {str(node["NodeManagerAddress"]): node["Resources"] for node in nodes if node["Alive"]}
    rooms = [
        min(int(offer.get(name, 0.0) / amount + 1e-9) for name, amount in wanted.items())
        for offer in offers.values()
    ]
    match cluster.placement:
        case "STRICT_PACK":
            room = max(rooms, default=0)
        case "STRICT_SPREAD":
            room = sum(n > 0 for n in rooms)
        case _:
            room = sum(rooms)
    if room >= cluster.fewest:
        return ""
    shown = [f"{place} {_amounts(wanted, offer)}" for place, offer in offers.items()][:_SHOWN]
    rest = f" and {len(offers) - _SHOWN} more" if len(offers) > _SHOWN else ""
    return (
        f"the run needs {cluster.fewest} workers with {_amounts(wanted, wanted)} each "
        f"({cluster.placement}), and the nodes have room for {room}: {', '.join(shown)}{rest}"
    )


def _amounts(names: Mapping[str, float], amounts: Mapping[str, float]) -> str:
    return " ".join(f"{name}={amounts.get(name, 0.0):g}" for name in names)
