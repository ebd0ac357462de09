"""A run as Ray Train workers on all nodes of a cluster."""

import os
from pathlib import Path
from typing import Any

from lxmert_dist.cluster.exposure import check_exposure, connection_error
from lxmert_dist.cluster.launcher import use_threads
from lxmert_dist.config import RunConfig
from lxmert_dist.errors import ClusterError, ConfigError, LxmertError
from lxmert_dist.train.run import Outcome, run
from lxmert_dist.train.world import World, backend, best_device


def check_places(config: RunConfig) -> None:
    """Refuse relative paths: a Ray worker's working directory is a copy that is thrown away.

    Raises:
        ConfigError: names the setting.
    """
    places = {
        "directory": config.directory,
        "data.store": config.data.store,
        "checkpoint.uri": config.checkpoint.uri,
        "cluster.storage": config.cluster.storage,
    }
    for key, place in places.items():
        if place and "://" not in place and not Path(place).is_absolute():
            raise ConfigError(
                f"{key}={place!r} is relative, but Ray workers run in a temporary copy of the "
                f"working directory; give an absolute path on a disk that all nodes share, or a "
                f"URI: --set {key}=/path/to/{place}"
            )


def run_on_ray(config: RunConfig) -> Outcome:
    """Run ``config`` on ``cluster.workers`` workers and wait for the end.

    A worker that dies takes the others down; all start again from the last complete checkpoint,
    up to ``cluster.max_failures`` times.

    Raises:
        ClusterError: Ray is out of reach or open to strangers, or the failures were too many.
        LxmertError: as the run raised it; that is not tried again.
    """
    check_places(config)
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # 20 take minutes on a dead head
    try:
        import ray
        from ray.train import FailureConfig, ScalingConfig
        from ray.train import RunConfig as RayRunConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise ClusterError("--launcher ray needs Ray: pip install 'lxmert_dist[ray]'") from error
    try:
        ray.init(address="auto", log_to_driver=True)
    except (ConnectionError, RuntimeError, ray.exceptions.AuthenticationError) as error:
        raise connection_error(error) from error
    cluster = config.cluster
    address = ray.get_runtime_context().gcs_address
    check_exposure(address, allow_open=cluster.allow_open, option="--set cluster.allow_open=true")
    resources = {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}
    mailbox = ray.remote(num_cpus=0)(_Mailbox).remote()
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "type": type(config),
            "config": config.model_dump_json(),
            "mailbox": mailbox,
        },
        torch_config=TorchConfig(
            backend="nccl" if cluster.gpus_per_worker else "gloo",
            timeout_s=cluster.timeout_seconds,
        ),
        scaling_config=ScalingConfig(
            num_workers=cluster.workers,
            use_gpu=cluster.gpus_per_worker > 0,
            resources_per_worker={name: n for name, n in resources.items() if n},
        ),
        run_config=RayRunConfig(
            name=config.name,
            storage_path=cluster.storage or str(Path(config.directory).absolute() / "ray"),
            failure_config=FailureConfig(max_failures=cluster.max_failures),
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise ClusterError(
            f"the run failed more than cluster.max_failures={cluster.max_failures} times; "
            f"the last cause: {error}"
        ) from error
    answer = ray.get(mailbox.get.remote())
    if isinstance(answer, LxmertError):
        raise answer
    if answer is None:
        raise ClusterError("the workers ended without a result; see the Ray logs of the job")
    outcome: Outcome = answer
    return outcome


class _Mailbox:
    """Holds what rank 0 has to say until the driver asks."""

    def __init__(self) -> None:
        self._content: Outcome | LxmertError | None = None

    def put(self, content: Outcome | LxmertError) -> None:
        self._content = content

    def get(self) -> Outcome | LxmertError | None:
        return self._content


def _worker(arguments: dict[str, Any]) -> None:
    """One rank; Ray has formed the process group already."""
    import ray
    from ray.train import get_context

    context = get_context()
    config = arguments["type"].model_validate_json(arguments["config"])
    world = World(
        context.get_world_rank(),
        context.get_world_size(),
        context.get_local_rank(),
        context.get_local_world_size(),
        best_device(context.get_local_rank()),
    )
    print(  # noqa: T201 - the job's log tells rank, node and device once
        f"rank {world.rank} of {world.size} on {ray.util.get_node_ip_address()}, "
        f"{world.device} ({backend(world.device)})",
        flush=True,
    )
    use_threads(config.train.threads, world.local_size, os.environ)
    try:
        answer: Outcome | LxmertError = run(config, world, "ray")
    except ClusterError:
        raise
    except LxmertError as error:
        answer = error
    if world.is_main or isinstance(answer, LxmertError):
        ray.get(arguments["mailbox"].put.remote(answer))
