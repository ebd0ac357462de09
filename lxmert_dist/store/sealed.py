"""A directory of any fsspec URI that is complete or absent: its manifest is written last.

```
<uri>/…                  files
<uri>/manifest.json      bytes and sha256 of each; without it, nothing is there
```
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from lxmert_dist.errors import DamagedCheckpointError
from lxmert_dist.store import uri as uris

FORMAT = 1
MANIFEST = "manifest.json"

Files = Mapping[str, tuple[int, str]]
"""By name, bytes and sha256."""


class Sealed:
    """A complete directory."""

    def __init__(self, uri: str, files: Files, advice: str) -> None:
        """``advice``: what a user can do about a damaged file; ends the error's message."""
        self.uri = uri
        self._files = files
        self._advice = advice

    @property
    def names(self) -> list[str]:
        """Of all files that the manifest vouches for."""
        return list(self._files)

    def __contains__(self, name: str) -> bool:
        """Whether the manifest vouches for a file of this name."""
        return name in self._files

    def fetch(self, name: str, folder: Path) -> Path:
        """One file, verified: a copy in a local folder, or itself where it is on this machine.

        Raises:
            DamagedCheckpointError: it is missing or damaged.
        """
        place = uris.local_path(self.uri)
        copy = (place or folder) / name
        try:
            if place is None:
                copy.parent.mkdir(parents=True, exist_ok=True)
                uris.download(uris.join(self.uri, name), copy)
            found = (copy.stat().st_size, digest(copy))
        except (uris.MissingError, FileNotFoundError) as error:
            raise DamagedCheckpointError(f"{self.uri}/{name} is missing; {self._advice}") from error
        if found != self._files.get(name):
            raise DamagedCheckpointError(
                f"{self.uri}/{name} is damaged (length or checksum); {self._advice}"
            )
        return copy


def open_sealed(uri: str, advice: str) -> Sealed | None:
    """The directory at a URI, or None where no complete one is.

    Raises:
        DamagedCheckpointError: its manifest is damaged.
    """
    try:
        text = uris.read_bytes(uris.join(uri, MANIFEST))
    except uris.MissingError:
        return None
    try:
        files = {k: (int(v[0]), str(v[1])) for k, v in json.loads(text)["files"].items()}
        if any({"", ".", ".."} & {*name.split("/")} for name in files):
            raise ValueError("a name that leads elsewhere")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(f"{uri}/{MANIFEST} is damaged; {advice}") from error
    return Sealed(uri, files, advice)


def publish(file: Path, target: str) -> tuple[int, str]:
    """Upload a file, and remove it here; returns its bytes and sha256."""
    size, sha256 = file.stat().st_size, digest(file)
    uris.upload(file, uris.join(target, file.name))
    file.unlink()
    return size, sha256


def seal(target: str, files: Files) -> None:
    """Declare a directory complete, once all its files are there."""
    manifest = json.dumps({"format": FORMAT, "files": files}, indent=1).encode()
    uris.write_bytes(uris.join(target, MANIFEST), manifest)


def digest(file: Path) -> str:
    """SHA-256 of a local file, 64 hex digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
