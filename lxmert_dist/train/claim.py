"""One command at a time in a run's directory."""

import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lxmert_dist.errors import CheckpointError, unwritable
from lxmert_dist.locks import lock_file

_FILE = "in_use"
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""What a file system without locks answers; two commands are not told apart there."""


@contextmanager
def claim(directory: Path, patience_s: float) -> Iterator[None]:
    """Hold a run's directory, so that no other process trains in it.

    The system lets go of it when the process ends, however it ends. Ranks whose launcher was killed
    leave a checkpoint before they end; who starts the run again meanwhile waits for that.

    Args:
        directory: of the run; it is made.
        patience_s: how long another process may take to end.

    Raises:
        CheckpointError: it did not end, or the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = _hold(directory / _FILE, patience_s)
    except OSError as error:
        raise CheckpointError(unwritable(directory, error)) from None
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _hold(path: Path, patience_s: float) -> int | None:
    """The descriptor that has the file locked; None where there are no locks."""
    other = ""
    try:
        descriptor = lock_file(path, 0)
        if descriptor is None:
            other = path.read_text("utf-8") or "another process"
            print(f"{path.parent}: waiting for {other} to end", file=sys.stderr)  # noqa: T201
            descriptor = lock_file(path, patience_s)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    if descriptor is None:
        raise CheckpointError(
            f"{path.parent}: {other} trains here; wait for it, end it, or set directory to "
            "another one"
        )
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} of {socket.gethostname()}".encode())
    return descriptor
