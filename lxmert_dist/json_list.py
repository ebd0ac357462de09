"""The elements of JSON and JSON Lines, one at a time: any length in a few MiB of memory."""

import codecs
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from lxmert_dist.errors import CORRECT, DataError, unreadable

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
    with _opened(path, read) as text:
        yield from _objects(text)


def read_members(
    path: Path, read: Callable[[int], object] = lambda _: None
) -> Iterator[tuple[str, str, Any]]:
    """The members of a file that is one object; those that are lists, element by element.

    Args:
        path: of the file.
        read: told of the bytes of every block that was read, for a progress bar.

    Yields:
        The member's key, where the value or the element begins ("file:line"), and what it is. An
        empty list yields nothing, and a key that comes twice is told twice.

    Raises:
        DataError: the file is missing, is no object, or is cut or damaged; names the line.
    """
    with _opened(path, read) as text:
        yield from _members(text)


def read_lines(
    path: Path, read: Callable[[int], object] = lambda _: None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of JSON Lines, each with where it is ("file:line"); empty lines are skipped.

    Args:
        path: of the file.
        read: told of the bytes of every line that was read, for a progress bar.

    Raises:
        DataError: the file cannot be read, or a line is no object; names it.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                read(len(line))
                if not line.isspace():
                    yield f"{path}:{number}", _line(line, f"{path}:{number}")
    except OSError as error:
        raise DataError(unreadable(path, error)) from error


def whole_number(entry: Mapping[str, Any], name: str, where: str) -> int:
    """A number of an object that was read, 0 or more.

    Raises:
        DataError: it is something else, or absent; names ``where``.
    """
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DataError(f"{where}: {name} is {value!r}, expected a whole number; {CORRECT}")
    return value


@contextmanager
def _opened(path: Path, read: Callable[[int], object]) -> "Iterator[_Text]":
    try:
        with path.open("rb") as file:
            yield _Text(path, file, read)
    except OSError as error:
        raise DataError(unreadable(path, error)) from error


def _line(line: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{where}: not JSON ({error}), expected an object a line; {CORRECT}"
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object a line, found {line[:40]!r}; {CORRECT}")
    return value


def _members(text: "_Text") -> Iterator[tuple[str, str, Any]]:
    if text.next() != "{":
        raise text.error('expected an object, as in {"questions": […]}')
    for _ in _separated(text, "}"):
        if text.next() != '"':
            raise text.error("expected a key in double quotes")
        key = str(text.value())
        if text.next() != ":":
            raise text.error(f"expected ':' behind the key {key!r}")
        text.at += 1
        if text.next() == "[":
            for _ in _separated(text, "]"):
                text.next()
                yield key, text.where(), text.value()
        else:
            yield key, text.where(), text.value()
    if text.next():
        raise text.error("something follows the object")


def _separated(text: "_Text", closing: str) -> Iterator[None]:
    """Stop at every element between here, an opening bracket, and the closing one; take that."""
    text.at += 1
    if text.next() == closing:
        text.at += 1
        return
    while True:
        yield
        follows = text.next()
        if follows not in (",", closing) or not follows:
            raise text.error(f"expected ',' or {closing!r} behind a value")
        text.at += 1
        if follows == closing:
            return


def _objects(text: "_Text") -> Iterator[tuple[str, dict[str, Any]]]:
    if text.next() != "[":
        raise text.error("expected a list")
    for _ in _separated(text, "]"):
        if text.next() != "{":
            raise text.error("expected an object")
        yield text.where(), dict(text.value())
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
            return DataError(
                f"{self.where()}: the file ends in the middle: it was cut short; fetch it again"
            )
        return DataError(f"{self.where()}: {problem}; {CORRECT}")

    def next(self) -> str:
        """The next character that is no blank, not taken; empty at the end."""
        while True:
            while self.at < len(self._text):
                if self._text[self.at] not in _BLANKS:
                    return self._text[self.at]
                self.at += 1
            if not self._more():
                return ""

    def value(self) -> Any:
        """Take the value that begins here."""
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self.at)
                # a number at the end of the window may go on, as 1 does in 1.5
                cut = isinstance(value, int | float) and end > len(self._text) - _TAIL
                if cut and not self._ended:
                    self._more()
                    continue
                self.at = end
                return value
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
