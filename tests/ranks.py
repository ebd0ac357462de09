"""Ranks as real processes, forked from a server that has imported everything: seconds cheaper each.

Every rank runs the whole command, finds the others by the environment as under the deepspeed
launcher, and ends with the command's exit code.
"""

import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lxmert_dist.cli import pretrain

_server = multiprocessing.get_context("forkserver")
# Not this module: the server has not the path of the tests.
_server.set_forkserver_preload(
    [
        "deepspeed.runtime.zero.muon.muon_optimizer",
        "lxmert_dist.train.run",
        "lxmert_dist.cli.summary",
        "torch._dynamo",
        "torch._inductor.compile_fx",
    ]
)


@dataclass(frozen=True)
class Ranks:
    """Processes that were started."""

    processes: Sequence[multiprocessing.Process]
    log: Path

    def wait(self, timeout: float = 120) -> list[int]:
        """Exit codes by rank, as a shell gives them."""
        deadline = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
            assert process.exitcode is not None, f"a rank hangs:\n{self.output}"
        return [process.exitcode for process in self.processes]

    def wait_for(self, ready: Callable[[], bool], timeout: float = 120) -> None:
        """Wait until something holds that the ranks, all still running, bring about."""
        deadline = time.monotonic() + timeout
        while not ready():
            assert all(process.is_alive() for process in self.processes), self.output
            assert time.monotonic() < deadline, f"not within {timeout:g} s:\n{self.output}"
            time.sleep(0.005)

    @property
    def output(self) -> str:
        """What all of them said."""
        return self.log.read_text()


@contextmanager
def started(
    settings: Sequence[str], size: int, main: Callable[[list[str]], int] = pretrain.main
) -> Iterator[Ranks]:
    """``size`` ranks of ``launch/pretrain.py``; what is left of them at the end is killed.

    ``main``, a function of a module, may be another that changes something before it calls it.
    """
    with called(_command, size, main, list(settings)) as ranks:
        yield ranks


@contextmanager
def called(function: Callable[..., None], size: int, *arguments: object) -> Iterator[Ranks]:
    """``size`` processes that call ``function(rank, size, *arguments)``; the end is as above."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        log.touch()
        port = _free_port()
        processes = [
            _server.Process(target=_main, args=(function, rank, size, port, str(log), arguments))
            for rank in range(size)
        ]
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # for the server, if it starts now
        try:
            for process in processes:
                process.start()
            yield Ranks(processes, log)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _main(
    function: Callable[..., None],
    rank: int,
    size: int,
    port: int,
    log: str,
    arguments: Sequence[object],
) -> None:
    if size > 1:
        here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in (here | place).items()})
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    function(rank, size, *arguments)


def _command(
    rank: int, size: int, main: Callable[[list[str]], int], settings: Sequence[str]
) -> None:
    sys.exit(main([word for setting in settings for word in ("--set", setting)]))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
