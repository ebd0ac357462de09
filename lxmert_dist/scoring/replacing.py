"""Files that are there as a whole, or as they were before."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lxmert_dist.errors import DataError, unwritable


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to; on leaving without an error, the file takes the place of ``path``.

    Raises:
        DataError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(unwritable(path, error)) from error
