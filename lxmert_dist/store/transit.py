"""What goes wrong between here and a place, in words for whoever can mend it.

Errors of the operating system, botocore, aiohttp and of S3 servers become a :class:`StoreError`
that names the place and says what to check; credentials are never shown.
"""

import errno
from typing import Literal

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    FlexibleChecksumError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
)

from lxmert_dist.errors import CorruptObjectError, StoreError
from lxmert_dist.redact import redact as shown

Kind = Literal["throttled", "server", "timeout", "short", "reset"]

TROUBLE = (OSError, ValueError, BotoCoreError, ClientError, aiohttp.ClientError)
"""What file systems raise about places."""

_TRANSIENT_ERRNOS = {errno.EBUSY, errno.EREMOTEIO, errno.EIO, errno.ETIMEDOUT}
_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ADVICE = {
    "RequestTimeTooSkewed": "set this machine's clock, which is wrong",
    "ExpiredToken": "renew the credentials, which have expired, and start again",
}
"""What to do about a refusal, by its code, where the keys need not be wrong."""

_THROTTLED = {"SlowDown", "ServiceUnavailable", "TooManyRequests", "RequestLimitExceeded"}
_THROTTLED |= {"Throttling", "ThrottlingException", "503", "429"}


class MissingError(StoreError):
    """There is no object at a URI."""


class DeniedError(StoreError):
    """Credentials are absent, wrong, or do not suffice; repeating cannot help."""


class UnreachableError(StoreError):
    """The other side did not answer, or broke off; repeating may help.

    ``kind``: it asked for patience, failed, was silent for too long, ended a body early, or could
    not be connected to.
    """

    def __init__(self, message: str, kind: Kind = "reset") -> None:
        """``message``: names the place and what to check."""
        super().__init__(message)
        self.kind = kind


def explain(error: Exception, uri: str, *, written: str, local: bool) -> StoreError:
    """The error that a user sees, in place of one of :data:`TROUBLE`.

    Args:
        error: what happened.
        uri: where.
        written: the place that was being written, if any was.
        local: whether ``uri`` is on this machine.
    """
    place = shown(uri)
    if isinstance(error, NoCredentialsError | PartialCredentialsError | ProfileNotFound):
        return DeniedError(
            f"cannot reach {place}: no complete credentials; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY (or AWS_PROFILE)"
        )
    if any(isinstance(e, ParamValidationError) for e in (error, error.__cause__)):
        return StoreError(
            f"cannot use {place}: its bucket or key is not a name that S3 allows; choose another"
        )
    code = _s3_code(error)
    if code == "NoSuchBucket":
        return _no_bucket(place)
    if isinstance(error, FileNotFoundError):
        return missing(uri)
    if isinstance(error, NotADirectoryError):
        return MissingError(f"nothing at {place}: a part of its path is a file; check its name")
    if isinstance(error, PermissionError):
        return _denied(place, code)
    if isinstance(error, FlexibleChecksumError):  # the server kept one of its own
        return CorruptObjectError(
            f"{place} is damaged: its checksum does not match; write it again"
        )
    number = getattr(error, "errno", None)
    if number in _FULL_ERRNOS:
        return StoreError(
            f"no space left to write {shown(written)}; free some or choose another place"
        )
    if isinstance(error, BotoCoreError | aiohttp.ClientError | ConnectionError | TimeoutError) or (
        number in _TRANSIENT_ERRNOS and not local
    ):
        reason = f"{code}: {getattr(error, 'strerror', error)}" if code else str(error)
        return unreachable(uri, reason or type(error).__name__, _kind(error, code))
    return StoreError(
        f"cannot use {place}: {shown(str(error))}; check the path, its permissions and the disk"
    )


def explain_status(uri: str, status: int, code: str) -> StoreError:
    """The error that a user sees for an HTTP status and the code that an S3 server gives it."""
    place = shown(uri)
    if code == "NoSuchBucket":
        return _no_bucket(place)
    if status == 404:
        return missing(uri)
    if status in (401, 403) or code in _ADVICE:
        return _denied(place, code)
    if code == "RequestTimeout":
        return unreachable(uri, f"{code} ({status})", "timeout")
    if status == 429 or status >= 500:
        kind: Kind = "throttled" if status in (429, 503) else "server"
        return unreachable(uri, f"{code} ({status})", kind)
    return StoreError(f"cannot use {place}: {code} ({status}); check its name and AWS_ENDPOINT_URL")


def missing(uri: str) -> MissingError:
    """The error for a place where nothing is."""
    return MissingError(f"nothing at {shown(uri)}; check its name")


def unreachable(uri: str, reason: str, kind: Kind) -> UnreachableError:
    """The error for a place that may answer when it is asked again."""
    return UnreachableError(
        f"cannot reach {shown(uri)}: {shown(reason)}; "
        "check the endpoint (AWS_ENDPOINT_URL) and the network",
        kind,
    )


def _no_bucket(place: str) -> StoreError:
    return StoreError(
        f"cannot reach {place}: there is no such bucket; check its name and AWS_ENDPOINT_URL"
    )


def _denied(place: str, code: str | None) -> DeniedError:
    """What to do about a refusal by a file system, or by S3 with this code."""
    if code is None:
        return DeniedError(f"permission denied at {place}; check who owns it")
    keys = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they are allowed to do"
    return DeniedError(f"cannot reach {place}: access denied ({code}); {_ADVICE.get(code, keys)}")


def _s3_code(error: Exception) -> str | None:
    """The code of an S3 server's refusal, which s3fs keeps as the cause of its own error."""
    for candidate in (error, error.__cause__):
        if isinstance(candidate, ClientError):
            return str(candidate.response.get("Error", {}).get("Code", "unknown"))
    return None


def _kind(error: Exception, code: str | None) -> Kind:
    if code:
        return "throttled" if code in _THROTTLED else "server"
    if isinstance(error, TimeoutError | ConnectTimeoutError | ReadTimeoutError):
        return "timeout"
    broken = any(isinstance(e, aiohttp.ClientPayloadError) for e in (error, error.__cause__))
    return "short" if broken else "reset"
