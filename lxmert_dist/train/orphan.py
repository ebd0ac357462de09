"""Ranks whose launcher was killed end as on SIGTERM: nobody is left who would tell them to."""

import os
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lxmert_dist.train.stop import Stop

_LOOK_SECONDS = 1.0
_COMMANDS = {"deepspeed", "torchrun"}
_MODULES = {
    "deepspeed.launcher.launch",
    "deepspeed.launcher.runner",
    "torch.distributed.launch",
    "torch.distributed.run",
}


@dataclass(frozen=True)
class Process:
    """A process as the kernel tells it from later ones with the same id."""

    pid: int
    parent: int
    started: int
    """Clock ticks since the machine was booted."""

    @classmethod
    def find(cls, pid: int) -> Self | None:
        """The running process of this id; None if there is none, or no ``/proc``."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            return None
        state, parent, *rest = stat.rpartition(")")[2].split()
        return None if state in "ZX" else cls(pid, int(parent), int(rest[17]))

    @property
    def command(self) -> list[str]:
        """Its command line; empty if it ended."""
        try:
            line = Path(f"/proc/{self.pid}/cmdline").read_text(errors="replace")
        except OSError:
            return []
        return line.rstrip("\0").split("\0")

    @property
    def launches(self) -> bool:
        """Whether it is a launcher, which waits for what it started."""
        words = self.command[:4] or [""]  # behind them are the words of the script
        return words[0].startswith("slurmstepd") or any(
            Path(word).name in _COMMANDS or word in _MODULES for word in words
        )


def launchers_above(pid: int) -> list[Process]:
    """The launchers that a process was started by, the nearest first: DeepSpeed has two.

    Somebody who starts ranks by hand, from a shell that ends before them, is none.
    """
    found: list[Process] = []
    here = Process.find(pid)
    while here and (here := Process.find(here.parent)) and here.launches:
        found.append(here)
    return found


class Orphan:
    """As a context: asks for the end of the run when a launcher of this process is gone."""

    def __init__(self, stop: Stop) -> None:
        """``stop``: what is asked."""
        self._launchers = launchers_above(os.getpid())
        self._stop = stop
        self._over = threading.Event()

    def __enter__(self) -> Self:
        if self._launchers:
            threading.Thread(target=self._watch, name="orphan", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            gone = [p.pid for p in self._launchers if Process.find(p.pid) != p]
            if gone:
                with suppress(OSError):  # nobody may be left who reads
                    print(  # noqa: T201
                        f"the launcher (process {gone[0]}) is gone; the run ends as on SIGTERM",
                        file=sys.stderr,
                        flush=True,
                    )
                self._stop.request()
                return
