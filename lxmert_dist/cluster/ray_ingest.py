"""The tasks of an ingest as a Ray Data job on all nodes of a cluster."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from lxmert_dist.cluster.ray_nodes import connect
from lxmert_dist.errors import ClusterError, DataError, LxmertError

T = TypeVar("T")
R = TypeVar("R")

TASKS_A_BLOCK = 4
"""Tasks that a Ray task does one after the other."""


@dataclass(frozen=True)
class Actors:
    """Processes that a job keeps: how many, with a core each and as many GPUs (or parts of one)."""

    count: int
    gpus: float = 0.0


def map_on_ray(
    work: Callable[[T], R],
    items: Iterable[T],
    /,
    *,
    allow_open: bool = False,
    actors: Actors | None = None,
) -> Iterator[R]:
    """Apply a function to items on all nodes, a core each, and yield the results as they come.

    With ``actors`` each item is done by one of these processes, which keep what they have loaded.

    The package is sent to the nodes; its dependencies must be there, and so must every file that
    the items name, by the same path. A node that is lost has its items done again by others.

    ``allow_open`` takes a cluster that asks for no token (see ``exposure``).

    Raises:
        ClusterError: Ray is absent or out of reach, open to strangers, or the job failed.
        LxmertError: as ``work`` raised it, with the node on which it did.
    """
    tasks = [{"task": item} for item in items]
    if not tasks:
        return
    connect("--ray", log_to_driver=False, allow_open=allow_open, option="--allow-open")
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    blocks = -(-len(tasks) // TASKS_A_BLOCK) if actors is None else len(tasks)
    data = ray.data.from_items(tasks, override_num_blocks=blocks)
    if actors is None:
        results = data.map(_Attempt(work), num_cpus=1)
    else:
        results = data.map(
            _Attempt,
            fn_constructor_args=(work,),
            num_cpus=1,
            num_gpus=actors.gpus,
            compute=ray.data.ActorPoolStrategy(size=min(actors.count, len(tasks))),
        )
    try:
        for row in results.iter_rows():
            if isinstance(row["result"], LxmertError):
                raise row["result"]
            yield row["result"]
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1]
        raise ClusterError(f"the Ray job failed: {last}; the same command goes on") from error


class _Attempt:
    """Does one task; an error that a user can mend is its result, so that it arrives as it is."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self._work = work

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"result": self._work(row["task"])}
        except LxmertError as error:
            import ray

            place = f"on node {ray.util.get_node_ip_address()}"
            if isinstance(error, DataError) and isinstance(error.__cause__, FileNotFoundError):
                place += "; with --ray every node must see the files by the same path"
            return {"result": type(error)(f"{error} ({place})")}
