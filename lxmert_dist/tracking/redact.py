"""Keeps secrets out of whatever leaves the process."""

import re

_HIDDEN = "[hidden]"
# ``token`` only as a last word: max_tokens, token_types and token_mask_rate are settings.
_SECRET_NAME = (
    r"(?:[\w.-]*(?:secret|password|passwd|access_?key|api_?key|credential|signature)[\w.-]*"
    r"|(?:[\w.-]*[._-])?token)"
)
_SECRET_KEY = re.compile(_SECRET_NAME, re.IGNORECASE)
_ASSIGNED = re.compile(
    rf"(?<![\w.-])({_SECRET_NAME}[\"']?\s*[=:]\s*)"
    r"(?:(\")(?:[^\"\\]|\\.)*\"|(')[^']*'|[^\s,;&\"'}\])]+)",
    re.IGNORECASE,
)
_USERINFO = re.compile(r"(?<=://)[^/\s@]+@")
_AWS_KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")


def redact(text: str) -> str:
    """``text`` without ``user:password@`` in URIs and without values assigned to secret names.

    Quotes stay, so that TOML and JSON remain what they are.
    """

    def hide(match: re.Match[str]) -> str:
        quote = match[2] or match[3] or ""
        return f"{match[1]}{quote}{_HIDDEN}{quote}"

    return _AWS_KEY_ID.sub(_HIDDEN, _ASSIGNED.sub(hide, _USERINFO.sub("", text)))


def redact_param(key: str, value: object) -> str:
    """The value of a setting as text that may be shown."""
    text = str(value)
    return _HIDDEN if text and _SECRET_KEY.fullmatch(key) else redact(text)
