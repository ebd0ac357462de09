"""Files of sentences, whatever their format: each hands on :class:`Item` records."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from lxmert_dist.ingest.lxmert_json import Item, read_items


@runtime_checkable
class SentenceFile(Protocol):
    """Sentences about images, read anew by every call of :meth:`items`."""

    @property
    def name(self) -> str:
        """What ``--valid`` calls it."""
        ...

    @property
    def paths(self) -> Sequence[Path]:
        """The files that it reads, each as often as it is read."""
        ...

    def items(self, read: Callable[[int], object]) -> Iterator[Item]:
        """What is said, always in the same order.

        Args:
            read: told of the bytes of every block that was read, of the bytes of ``paths`` in all.

        Raises:
            DataError: a file is missing, damaged or inconsistent; names it and the line.
        """
        ...


@dataclass(frozen=True)
class OneFile:
    """What sentence files that are a single file share."""

    path: Path

    @property
    def name(self) -> str:
        """The file's name without suffix."""
        return self.path.stem

    @property
    def paths(self) -> Sequence[Path]:
        """The one file."""
        return (self.path,)


class LxmertJson(OneFile):
    """A file as LXMERT published it."""

    def items(self, read: Callable[[int], object]) -> Iterator[Item]:
        """See ``lxmert_json.read_items``."""
        return read_items(self.path, read)
