"""Which images there are: of nested folders, lists, and tar files, on any fsspec URI.

An image is called as its file is: relative to the folder, or as the list says, or as the tar file
has it, without suffix.
"""

import hashlib
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from lxmert_dist.errors import DataError
from lxmert_dist.ingest.image_ids import IMAGE_SUFFIXES
from lxmert_dist.redact import redact as shown
from lxmert_dist.store import uri as uris

TAR = ".tar"
MAX_BYTES = 64 << 20
"""Of an image's file: a longer one is refused before it is read."""

_TAR_BLOCK = 1 << 20
"""Bytes of a tar file elsewhere that are fetched at once while its members are looked for."""


@dataclass(frozen=True)
class ImageFile:
    """Where the bytes of an image are: an object, or a part of one.

    ``length`` is None where nobody asked yet.
    """

    image_id: str
    uri: str
    length: int | None = None
    start: int | None = None
    """Of a member of a tar file, its first byte there."""

    @property
    def where(self) -> str:
        """How a message names the place."""
        inside = "" if self.start is None else f" (from byte {self.start})"
        return f"{shown(self.uri)}{inside}"

    def read(self) -> bytes:
        """The whole file.

        Raises:
            DataError: it is longer than ``MAX_BYTES``, or its tar file ends before it does.
            StoreError: it is missing or out of reach.
        """
        length = uris.size(self.uri) if self.length is None else self.length
        if length > MAX_BYTES:
            raise DataError(f"{length:,} bytes are more than {MAX_BYTES:,}; make it smaller")
        if self.start is None:
            return uris.read_bytes(self.uri)
        data = uris.read_range(self.uri, self.start, self.start + length)
        if len(data) < length:
            raise DataError(
                f"truncated: the tar file ends after {len(data):,} of {length:,} bytes; "
                "fetch it again"
            )
        return data


@dataclass(frozen=True)
class Refusal:
    """An image, or something else that was listed, that is left out, and why."""

    image_id: str
    where: str
    reason: str


@dataclass(frozen=True)
class ImageList:
    """Images of different names, in their order, and what cannot be listed.

    ``ignored``: files of a folder or members of a tar file that are no images by their suffix.
    """

    images: Sequence[ImageFile]
    refused: Sequence[Refusal] = ()
    ignored: int = 0

    @property
    def digest(self) -> str:
        """64 hex digits over names and lengths, and places within tar files."""
        hashed = hashlib.sha256()
        for image in sorted(self.images, key=lambda image: image.image_id):
            hashed.update(f"{image.image_id}\t{image.length}\t{image.start}\n".encode())
        return hashed.hexdigest()


def list_images(uri: str) -> ImageList:
    """Find the images of a folder, a list or a tar file.

    A folder is searched to its depths for files that are images, or tar files, by their suffix. A
    list (any other file) has a URI a line, relative to the list unless it has a scheme or is
    absolute, of an image or of a tar file; a tab and a name of the image may follow.

    Args:
        uri: a path or any fsspec URI.

    Raises:
        DataError: there are none, two have one name, or a tar file or list is not one.
        StoreError: the place is missing or out of reach.
    """
    finding = _Finding()
    found = uris.list_tree(uri)
    if found:
        for key in sorted(found):
            finding.add_file(uris.join(uri, key), key, found[key])
    elif uri.endswith(TAR):
        finding.add_tar(uri)
    else:
        finding.add_list(uri)
    if not finding.images:
        raise DataError(
            f"{shown(uri)}: no images in it, but {finding.ignored} other files; name a place with "
            f"images ({' '.join(sorted(IMAGE_SUFFIXES))}) or {TAR} files"
        )
    return ImageList([*finding.images.values()], finding.refused, finding.ignored)


class _Finding:
    """Gathers images of different names."""

    def __init__(self) -> None:
        self.images: dict[str, ImageFile] = {}
        self.refused: list[Refusal] = []
        self.ignored = 0

    def add_file(self, uri: str, name: str, length: int) -> None:
        """A file of a folder, called ``name`` there."""
        if name.endswith(TAR):
            self.add_tar(uri)
        elif _is_image(name):
            self._add(ImageFile(_stem(name), uri, length))
        else:
            self.ignored += 1

    def add_tar(self, uri: str) -> None:
        """The members of a tar file; where it is cut, those before."""
        count = len(self.images)
        filesystem, key = uris.resolve(uri)
        with uris.translated(uri), filesystem.open(key, "rb", block_size=_TAR_BLOCK) as file:
            try:
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    for member in tar:
                        self._add_member(uri, member)
                        tar.members.clear()  # type: ignore[attr-defined]  # else each is remembered
                    file.seek(tar.offset)
                    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):  # at which tarfile just stops
                        raise tarfile.ReadError("what follows is no header")
            except tarfile.TarError as error:
                if len(self.images) == count:
                    raise DataError(
                        f"{shown(uri)}: no tar file ({error}); unpack it if it is compressed, else "
                        "fetch it again"
                    ) from error
                reason = f"the tar file is cut or damaged behind its last image ({error})"
                self.refused.append(Refusal("", shown(uri), f"{reason}; fetch it again"))

    def add_list(self, uri: str) -> None:
        """The lines of a list."""
        folder = uri.rpartition("/")[0] if "/" in uri else "."
        try:
            lines = uris.read_bytes(uri).decode().splitlines()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{shown(uri)}: neither a folder, nor a {TAR} file, nor a list in UTF-8; name one"
            ) from error
        for line in lines:
            place, _, name = line.strip().partition("\t")
            if not place:
                continue
            whole = place if "://" in place or place.startswith("/") else uris.join(folder, place)
            if place.endswith(TAR):
                self.add_tar(whole)
            else:
                self._add(ImageFile(name.strip() or _stem(place), whole))

    def _add_member(self, uri: str, member: tarfile.TarInfo) -> None:
        if not member.isreg():
            return
        if _is_image(member.name):
            name = _stem(member.name.removeprefix("./"))
            self._add(ImageFile(name, uri, member.size, member.offset_data))
        else:
            self.ignored += 1

    def _add(self, image: ImageFile) -> None:
        before = self.images.setdefault(image.image_id, image)
        if before is not image:
            raise DataError(
                f"two images are called {image.image_id!r}: {before.where} and {image.where}; "
                "rename one, or name them in a list (a line: URI, tab, name)"
            )


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def _stem(name: str) -> str:
    return name.removesuffix(PurePosixPath(name).suffix)
