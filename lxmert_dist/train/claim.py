"""One command at a time in a run's directory."""

import errno
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from lxmert_dist.errors import CheckpointError, unwritable

_FILE = "in_use"
_LOOK_SECONDS = 0.2
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
    with ExitStack() as stack:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((directory / _FILE).open("a+", encoding="utf-8"))
            _lock(file, directory, patience_s)
            file.truncate(0)
            file.write(f"process {os.getpid()} of {socket.gethostname()}")
            file.flush()
        except OSError as error:
            raise CheckpointError(unwritable(directory, error)) from None
        yield


def _lock(file: TextIO, directory: Path, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    other = ""
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not other:
                file.seek(0)
                other = file.read() or "another process"
                print(f"{directory}: waiting for {other} to end", file=sys.stderr)  # noqa: T201
            if time.monotonic() > deadline:
                raise CheckpointError(
                    f"{directory}: {other} trains here; wait for it, end it, or set directory "
                    "to another one"
                ) from None
            time.sleep(_LOOK_SECONDS)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return
        else:
            return
