"""Locks on files: they end when their descriptor is closed, and with the process that has them."""

import fcntl
import os
import random
import time
from pathlib import Path

_POLL_S = (0.01, 0.05)


def lock_file(path: Path, patience_s: float) -> int | None:
    """A descriptor of the file at ``path``, made if need be, locked until it is closed.

    None where somebody else has it locked for longer than ``patience_s``.
    """
    until = time.monotonic() + patience_s
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(descriptor, path):
                return descriptor
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(descriptor)
                return None
            time.sleep(random.uniform(*_POLL_S))
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Whether the file at ``path`` is still the one that the descriptor is of."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
