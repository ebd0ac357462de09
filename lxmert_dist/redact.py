"""Keeps secrets out of whatever leaves the process: its output, trackers, checkpoints, reports.

It reads the environment, and hides what it finds there; nothing else depends on that.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast
from urllib.parse import quote

_HIDDEN = "[hidden]"
_SHORTEST = 6
"""A shorter value is rather a number or a switch, which would blot out half of what is said."""

# ``token`` only as a last word: max_tokens, token_types and token_mask_rate are settings.
_SECRET_NAME = (
    r"(?:[\w.-]*(?:secret|passw(?:or)?d|passphrase|(?:access|account|api|private)_?key|credential"
    r"|signature|authorization)[\w.-]*"
    r"|(?:[\w.-]*[._-])?token)"
)
_SECRET_KEY = re.compile(_SECRET_NAME, re.IGNORECASE)
_PLACE = re.compile(r".*_(?:file|path|uri|url)|google_application_credentials", re.IGNORECASE)
"""Variables that tell where a secret is."""
_ASSIGNED = re.compile(
    rf"(?<![\w.-])({_SECRET_NAME}[\"']?\s*[=:]\s*)(?!\[hidden\])"
    r"(?:(\")(?:[^\"\\]|\\.)*\"|(')[^']*'|(?:(?:bearer|basic)\s+)?[^\s,;&\"'}\])]+)",
    re.IGNORECASE,
)
_IN_URI = re.compile(
    r"""(?<=//)(?:[^\s"'/@]+@)+                                # who stands before a host
    | [^\s/"':@]+:(?!//|\d+(?:/|$))[^\s"'@]*@(?:[^\s"'/@]+@)*  # key:secret@, with a slash or an @
    | (?<=bucket\ name\ ")[^"]*:[^"]*                         # botocore, of key:sec/ret@bucket
    | (?<=\?)[^\s=?"']*=[^\s"']*                            # the query of a presigned URL""",
    re.VERBOSE,
)
_AWS_KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")


def redact(text: str) -> str:
    """``text`` without secrets: a log line, a URI, TOML or JSON, which stay what they are.

    Hidden are ``user:password@`` and the queries of URIs, values that are assigned to secret names,
    AWS key ids, and the values of secret environment variables wherever they stand.
    """
    for value in _values(os.environ):
        text = text.replace(value, _HIDDEN)
    text = _IN_URI.sub(lambda match: "…@" if match[0].endswith("@") else "…", text)
    return _AWS_KEY_ID.sub(_HIDDEN, _ASSIGNED.sub(_hide, text))


def redact_param(key: str, value: object) -> str:
    """The value of a setting as text that may be shown."""
    text = str(value)
    return _HIDDEN if text and _SECRET_KEY.fullmatch(key) else redact(text)


def redact_tree(value: Any) -> Any:
    """JSON without secrets in its texts."""
    if isinstance(value, dict):
        return {
            key: redact_param(key, inner) if isinstance(inner, str) else redact_tree(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact_tree(inner) for inner in value]
    return redact(value) if isinstance(value, str) else value


@contextmanager
def redacted_output() -> Iterator[None]:
    """While it lasts, what is printed, logged or warned of is redacted, tracebacks too."""
    out, errors = cast(TextIO, _Redacted(sys.stdout)), cast(TextIO, _Redacted(sys.stderr))
    with redirect_stdout(out), redirect_stderr(errors):
        yield


class _Redacted:
    """A stream that redacts each text written to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _hide(match: re.Match[str]) -> str:
    quoted = match[2] or match[3] or ""
    return f"{match[1]}{quoted}{_HIDDEN}{quoted}"


def _values(env: Mapping[str, str]) -> list[str]:
    """The secrets of an environment, as they are and as a URL has them; the longest first."""
    found = {
        spelling
        for name, value in env.items()
        if len(value) >= _SHORTEST and _SECRET_KEY.fullmatch(name) and not _PLACE.fullmatch(name)
        for spelling in (value, quote(value, safe=""))
    }
    return sorted(found, key=len, reverse=True)
