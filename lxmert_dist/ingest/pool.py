"""Work in processes of this machine: in order, a bounded amount in flight, nothing left behind."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, islice
from multiprocessing import connection, get_context, parent_process
from types import TracebackType
from typing import Any, Protocol, TypeVar, runtime_checkable

from lxmert_dist.errors import WorkerError

T = TypeVar("T")
R = TypeVar("R")

IN_FLIGHT = 3
"""Items a process that are handed out and not yet taken back."""


@runtime_checkable
class Mapper(Protocol):
    """Applies a function to items, wherever that is, and yields the results in their order."""

    def __call__(self, work: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
        """``work`` is a function of a module and, as the items, can be sent to other processes."""
        ...


class Pool:
    """Processes that are started when they are first needed; a context manager."""

    def __init__(self, processes: int) -> None:
        """With one process, or a single item, the work is done in this one."""
        self._processes = processes
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def map(self, work: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
        """See :class:`Mapper`.

        Raises:
            WorkerError: a process was killed.
            Exception: whatever ``work`` raises, as it is.
        """
        source = iter(items)
        first = list(islice(source, 2))
        if self._processes == 1 or len(first) < 2:
            yield from map(work, chain(first, source))
            return
        if self._executor is None:
            self._executor = ProcessPoolExecutor(self._processes, get_context("spawn"), _begin)
        source = chain(first, source)
        waiting: deque[Future[R]] = deque()
        try:
            while True:
                for item in islice(source, IN_FLIGHT * self._processes - len(waiting)):
                    with _deaf_to_interrupts():  # it may start a process
                        waiting.append(self._executor.submit(work, item))
                if not waiting:
                    return
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise WorkerError(
                "a process of this ingest was killed, perhaps because memory ran out; run the same "
                "command again, which goes on where it stopped, with fewer processes if need be"
            ) from error


def available_processes() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Ctrl-C is for the parent: what is started meanwhile never hears of it. Ours waits so long."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin() -> None:
    """What a process does first: it takes one thread, and will end with its parent."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    torch.set_num_threads(1)
    parent: Any = parent_process()
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
