"""The elements of a JSON list, one at a time: a file of any length in a few MiB of memory."""

import codecs
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from lxmert_dist.errors import DataError

BLOCK = 1 << 20
"""Bytes that are read at once."""

MAX_ELEMENT = 64 << 20
"""Characters of the longest element: more is a damaged file, not an element."""

_BLANKS = " \t\n\r"
_TAIL = 12
"""An error so near to the end of the text may come of its being cut, as in ``fals``."""


def read_objects(
    path: Path, read: Callable[[int], object] = lambda _: None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file that is one list of objects.

    Args:
        path: of the file.
        read: told of the bytes of every block that was read, for a progress bar.

    Yields:
        Where each object begins ("file:line"), and the object.

    Raises:
        DataError: the file is missing, is no such list, or is cut or damaged; names the line.
    """
    try:
        with path.open("rb") as file:
            yield from _objects(_Text(path, file, read))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _objects(text: "_Text") -> Iterator[tuple[str, dict[str, Any]]]:
    if text.next() != "[":
        raise text.error("expected a list")
    text.at += 1
    if text.next() == "]":
        text.at += 1
    else:
        while True:
            if text.next() != "{":
                raise text.error("expected an object")
            yield text.where(), text.value()
            follows = text.next()
            text.at += 1
            if follows == "]":
                break
            if follows != ",":
                raise text.error("expected ',' or ']' behind an object")
    if text.next():
        raise text.error("something follows the list")


class _Text:
    """A window on the file's characters; those before ``at`` are done with."""

    def __init__(self, path: Path, file: BinaryIO, read: Callable[[int], object]) -> None:
        self.at = 0
        self._text = ""
        self._line = 1
        self._counted = 0  # its ends of lines are counted up to here
        self._path = path
        self._file = file
        self._read = read
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._ended = False
        self._json = json.JSONDecoder()

    def where(self) -> str:
        self._line += self._text.count("\n", self._counted, self.at)
        self._counted = self.at
        return f"{self._path}:{self._line}"

    def error(self, problem: str) -> DataError:
        if self._ended and self.at >= len(self._text):
            problem = "the file ends in the middle of its list: it was cut short, fetch it again"
        return DataError(f"{self.where()}: {problem}")

    def next(self) -> str:
        """The next character that is no blank, not taken; empty at the end."""
        while True:
            while self.at < len(self._text):
                if self._text[self.at] not in _BLANKS:
                    return self._text[self.at]
                self.at += 1
            if not self._more():
                return ""

    def value(self) -> dict[str, Any]:
        """Take the object that begins here."""
        while True:
            try:
                value, self.at = self._json.raw_decode(self._text, self.at)
                return dict(value)
            except json.JSONDecodeError as error:
                unfinished = error.pos >= len(self._text) - _TAIL or error.msg.startswith("Untermi")
                if not unfinished or len(self._text) - self.at > MAX_ELEMENT:
                    self.at = error.pos
                    raise self.error(f"not JSON ({error.msg})") from error
                if not self._more():
                    self.at = len(self._text)
                    raise self.error(error.msg) from error

    def _more(self) -> bool:
        """Drop what is done with and append more; doubling, so that no text is parsed often."""
        block = self._file.read(max(BLOCK, len(self._text) - self.at))
        self._read(len(block))
        try:
            added = self._decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise self.error("not UTF-8 text behind this line") from error
        self._line += self._text.count("\n", self._counted, self.at)
        self._text = self._text[self.at :] + added
        self.at = self._counted = 0
        self._ended = not block
        return bool(block)
