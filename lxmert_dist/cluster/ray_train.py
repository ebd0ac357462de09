"""A run as Ray Train workers on all nodes of a cluster: the driver's part."""

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lxmert_dist.cluster.ray_nodes import connect, shortage
from lxmert_dist.config import RunConfig, deepspeed_config
from lxmert_dist.errors import ClusterError, ConfigError, LxmertError, PreemptedError, StoppedError
from lxmert_dist.train.run import Outcome
from lxmert_dist.train.stop import Stop

if TYPE_CHECKING:
    from lxmert_dist.cluster.ray_worker import Word

POLL_SECONDS = 0.5
ABSENT_SECONDS = 10.0
"""Rank 0 is heard every half second; after so long without a word there is none."""
START_SECONDS = 120
"""What workers may take to start where nodes have room for them."""
MAILBOX_SECONDS = 60.0
"""For an answer of the mailbox, which is on the driver's own node."""
OTHERS_SECONDS = 10.0
"""After an error of one rank, how long the others may take to end by themselves."""
RAY_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon a dead worker is noticed
}
ELASTIC_SETTINGS = {
    # A lost node counts as room until it is declared dead; so long the start waits in vain.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
}


def check_places(config: RunConfig) -> None:
    """Refuse relative paths: a Ray worker's working directory is a copy that is thrown away.

    The run's directory is a path: rank 0, which may move to another node, appends to files in it.

    Raises:
        ConfigError: names the setting.
    """
    if "://" in config.directory:
        raise ConfigError(
            f"directory={config.directory!r} must be a path on a disk that all nodes share; "
            "checkpoints can be at a URI: checkpoint.uri"
        )
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


def check_sizes(config: RunConfig) -> None:
    """Refuse, before anything starts, numbers of workers that cannot share the work.

    Raises:
        ConfigError: as ``deepspeed_config``.
    """
    for workers in {config.cluster.fewest, config.cluster.most}:
        deepspeed_config(config, world_size=workers)


def hasty_stop(grace_seconds: float, env: Mapping[str, str]) -> str:
    """What to know of ``ray job stop``, if it would not leave a run its last checkpoint.

    Args:
        grace_seconds: what the checkpoint may take.
        env: of the driver; that of its supervisor, who does the stopping, has the same settings.
    """
    name = "RAY_JOB_STOP_WAIT_TIME_S"
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in env or float(env.get(name, "3")) >= grace_seconds:
        return ""
    wanted = f'{{"env_vars": {{"{name}": "{grace_seconds + 5:.0f}"}}}}'
    return (
        f"ray job stop would kill this run after {env.get(name, '3')} s, without a last checkpoint "
        f"(checkpoint.grace_seconds={grace_seconds:g}); to give it time: "
        f"ray job submit --runtime-env-json '{wanted}' ..."
    )


def run_on_ray(config: RunConfig) -> Outcome:
    """Run ``config`` on the workers that ``[cluster]`` describes, and wait for the end.

    A worker that is lost takes the others down; all start again from the last complete checkpoint,
    up to ``cluster.max_failures`` times. SIGTERM and Ctrl-C are passed on to the workers, which
    leave a checkpoint; a second Ctrl-C ends this process at once, and with it them.

    Raises:
        ConfigError: a place is relative, or the workers cannot share the work.
        ClusterError: Ray or its nodes are out of reach, Ray is open to strangers, or the failures
            were too many.
        StoppedError: a signal ended the run.
        LxmertError: as the run raised it; that is not tried again.
    """
    check_places(config)
    check_sizes(config)
    note = hasty_stop(config.checkpoint.grace_seconds, os.environ)
    if note:
        print(note, file=sys.stderr, flush=True)  # noqa: T201
    connect(
        "--launcher ray",
        log_to_driver=True,
        allow_open=config.cluster.allow_open,
        option="--set cluster.allow_open=true",
    )
    import ray

    try:
        # After ray.init, which has a handler of its own.
        with Stop(config.checkpoint.grace_seconds) as stop:
            return _Driver(config, ray, stop).run()
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"the cluster is out of reach: {_first_line(error)}; "
            "see that its nodes are up (ray status), and start again: the same command goes on"
        ) from error
    finally:
        ray.shutdown()  # what is left of the workers goes with the connection


class _Driver:
    """Starts the workers and watches over them until there is an answer."""

    def __init__(self, config: RunConfig, ray: Any, stop: Stop) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from lxmert_dist.cluster.ray_worker import Mailbox

        self._config = config
        self._ray = ray
        self._stop = stop
        self._told = False
        self._waiting_for = ""
        self._error_seconds = 0.0
        node = ray.get_runtime_context().get_node_id()
        self._here = NodeAffinitySchedulingStrategy(node, soft=False)
        self._mailbox = ray.remote(num_cpus=0, scheduling_strategy=self._here)(Mailbox).remote()

    def run(self) -> Outcome:
        """See ``run_on_ray``."""
        done: list[Any] = []
        fit = self._fit()
        while not done:
            done, _ = self._ray.wait([fit], timeout=POLL_SECONDS)
            word = self._read()
            self._pass_signals_on(word)
            self._look_for_nodes(word)
            if isinstance(word.answer, LxmertError):
                self._error_seconds += POLL_SECONDS
                if self._error_seconds > OTHERS_SECONDS:  # they wait for the one that failed
                    raise word.answer
        failure = self._ray.get(fit)
        answer = self._read().answer
        if isinstance(answer, LxmertError):
            raise answer
        if failure:
            limit = self._config.cluster.max_failures
            raise ClusterError(
                f"the workers failed more than cluster.max_failures={limit} times; the last "
                f"cause: {failure}; mend it, and the same command goes on"
            )
        if answer is None:
            raise ClusterError("the workers ended without a result; see the Ray logs of the job")
        return answer

    def _fit(self) -> Any:
        """Start Ray's part in a process of its own: this one hears signals, and may end first."""
        settings = RAY_SETTINGS | (ELASTIC_SETTINGS if self._config.cluster.elastic else {})
        chosen = {name: os.environ.get(name, value) for name, value in settings.items()}
        task = self._ray.remote(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=self._here,
            runtime_env={"env_vars": chosen},
        )(_fit)
        return task.remote(self._config, self._mailbox)

    def _read(self) -> "Word":
        word: Word = self._ray.get(self._mailbox.read.remote(), timeout=MAILBOX_SECONDS)
        return word

    def _pass_signals_on(self, word: "Word") -> None:
        """Ask the workers to end by the signal that this process got; ``stop`` bounds the wait."""
        if self._told:
            return
        try:
            self._stop.check(self._stop.flags())
        except StoppedError as wish:
            if not word.heard or word.silent_seconds > ABSENT_SECONDS:
                raise type(wish)(
                    f"{wish} while no worker was running; the same command goes on from the last "
                    "checkpoint, if there is one"
                ) from None
            number = signal.SIGTERM if isinstance(wish, PreemptedError) else signal.SIGINT
            self._ray.get(self._mailbox.stop.remote(int(number)))
            self._told = True

    def _look_for_nodes(self, word: "Word") -> None:
        """Say once what the workers wait for, and give up after ``wait_seconds``."""
        cluster = self._config.cluster
        silent = word.silent_seconds
        if silent <= ABSENT_SECONDS:
            self._waiting_for = ""
            return
        missing = shortage(cluster, self._ray.nodes())
        if missing and silent > cluster.wait_seconds:
            raise ClusterError(
                f"{missing} (cluster.wait_seconds={cluster.wait_seconds} are over); add nodes, ask "
                "for less, or wait longer"
            )
        if silent > cluster.wait_seconds + START_SECONDS:
            raise ClusterError(
                f"no worker has started for {silent:.0f} s, though the nodes have room for "
                f"{cluster.fewest}; see what holds them (ray status, and the Ray logs)"
            )
        if missing != self._waiting_for:
            self._waiting_for = missing
            if missing:
                note = f"waiting up to {cluster.wait_seconds} s for nodes: {missing}"
                print(note, file=sys.stderr, flush=True)  # noqa: T201


def _fit(config: RunConfig, mailbox: Any) -> str:
    """Let Ray Train start the workers, and again after a loss; returns why it gave up, or ""."""
    try:
        _trainer(config, mailbox).fit()
    except Exception as error:
        return failure_cause(error)
    return ""


def _trainer(config: RunConfig, mailbox: Any) -> Any:
    from ray.train import FailureConfig, ScalingConfig
    from ray.train import RunConfig as RayRunConfig
    from ray.train.torch import TorchTrainer

    from lxmert_dist.cluster.ray_worker import OwnGroup, work

    cluster = config.cluster
    workers = (cluster.min_workers, cluster.max_workers) if cluster.elastic else cluster.workers
    return TorchTrainer(
        work,
        train_loop_config={
            "type": type(config),
            "config": config.model_dump_json(),
            "mailbox": mailbox,
        },
        torch_config=OwnGroup(),
        scaling_config=ScalingConfig(
            num_workers=workers,
            elastic_resize_monitor_interval_s=cluster.resize_interval_s,
            use_gpu=cluster.gpus_per_worker > 0,
            resources_per_worker=cluster.resources,
            placement_strategy=cluster.placement,
        ),
        run_config=RayRunConfig(
            name=config.name,
            storage_path=cluster.storage or str(Path(config.directory) / "ray"),
            failure_config=FailureConfig(max_failures=cluster.max_failures),
        ),
    )


def failure_cause(error: Exception) -> str:
    """In a line, what Ray tells in many: of each rank that failed, the first four of them."""
    failures: Mapping[int, BaseException] = getattr(error, "worker_failures", {})
    said = []
    for rank, failure in sorted(failures.items())[:4]:
        inner = getattr(failure, "health_check_failure", failure)
        said.append(f"rank {rank}: {type(inner).__name__}: {_first_line(inner)}")
    return "; ".join(said) or _first_line(error)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
