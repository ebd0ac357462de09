"""What a store holds, object by object: the manifest, its canonical bytes and its digest."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
from pydantic import BaseModel, ConfigDict, ValidationError

from lxmert_dist.errors import CorruptObjectError, StoreError
from lxmert_dist.store import uri as uris
from lxmert_dist.store.layout import FORMAT, ROOT_KEY, SCHEMA_VERSION

BLOCK_BYTES = 1 << 20
"""How much of a file is read at once for its checksums."""

CHECKSUM_BYTES = 4
"""A chunk ends with the CRC-32C of what stands before, little-endian (Zarr's crc32c codec)."""

CHUNK_RESIDUE = int(google_crc32c.value(bytes(CHECKSUM_BYTES)))
"""CRC-32C of any undamaged chunk, its trailing checksum included: the same for all of them."""


class Record(BaseModel):
    """Frozen, strict, and closed."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class ObjectEntry(Record):
    """One object: its key under the store's URI, its length, and checksums of all its bytes."""

    key: str
    num_bytes: int
    crc32c: int
    sha256: str

    @classmethod
    def of(cls, key: str, data: bytes) -> "ObjectEntry":
        """Describe an object that is about to be written."""
        return cls(
            key=key,
            num_bytes=len(data),
            crc32c=int(google_crc32c.value(data)),
            sha256=hashlib.sha256(data).hexdigest(),
        )

    @classmethod
    def of_file(cls, key: str, path: Path) -> "ObjectEntry":
        """Describe a local file, without holding it in memory."""
        crc32c, sha256, size = 0, hashlib.sha256(), 0
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                crc32c = int(google_crc32c.extend(crc32c, block))
                sha256.update(block)
                size += len(block)
        return cls(key=key, num_bytes=size, crc32c=crc32c, sha256=sha256.hexdigest())


class ChunkEntry(ObjectEntry):
    """A Zarr chunk. ``crc32c`` covers the bytes before the trailing checksum, and equals it.

    (Over the whole object it would be :data:`CHUNK_RESIDUE` for every chunk, so one chunk in the
    place of another would go unseen.)
    """

    @classmethod
    def of(cls, key: str, data: bytes | bytearray) -> "ChunkEntry":
        """Describe an encoded chunk that is about to be written."""
        return cls(
            key=key,
            num_bytes=len(data),
            crc32c=int.from_bytes(data[-CHECKSUM_BYTES:], "little"),
            sha256=hashlib.sha256(data).hexdigest(),
        )

    @classmethod
    def of_file(cls, key: str, path: Path) -> "ChunkEntry":
        """Describe a local file that holds an encoded chunk, without holding it in memory."""
        whole = ObjectEntry.of_file(key, path)
        with path.open("rb") as file:
            file.seek(max(0, whole.num_bytes - CHECKSUM_BYTES))
            stored = int.from_bytes(file.read(CHECKSUM_BYTES), "little")
        return cls(key=key, num_bytes=whole.num_bytes, crc32c=stored, sha256=whole.sha256)


class ShardEntry(Record):
    """One feature chunk and which images (rows of the split) and pairs it serves."""

    chunk: ChunkEntry
    first_image: int
    num_images: int
    num_pairs: int


class SplitEntry(Record):
    """One split. ``sources``: pairs by sentence source."""

    num_images: int
    num_pairs: int
    sources: dict[str, int]
    shards: tuple[ShardEntry, ...]
    arrays: dict[str, ChunkEntry]
    metadata: tuple[ObjectEntry, ...]
    sentences: ObjectEntry
    image_ids: ObjectEntry

    def objects(self) -> Iterator[ObjectEntry]:
        """Every object of the split."""
        yield from self.metadata
        yield self.image_ids
        yield self.sentences
        yield from self.arrays.values()
        yield from (shard.chunk for shard in self.shards)


class TokenizerEntry(Record):
    """The tokenizer that made the token ids."""

    vocab_size: int
    pad_id: int
    cls_id: int
    sep_id: int
    mask_id: int
    unk_id: int
    files: tuple[ObjectEntry, ...]

    @property
    def digest(self) -> str:
        """64 hex digits over all files: equal for equal tokenizers."""
        return hashlib.sha256("".join(f.sha256 for f in self.files).encode()).hexdigest()


class VocabularyEntry(Record):
    """A list of strings, and how many there are."""

    size: int
    file: ObjectEntry


class Manifest(Record):
    """Everything that a reader needs to know before it reads, and to check what it reads."""

    schema_version: int
    num_objects: int
    feature_dim: int
    feature_dtype: str
    images_per_shard: int
    extractor: str
    info: dict[str, Any]
    objects: VocabularyEntry
    attributes: VocabularyEntry
    answers: VocabularyEntry
    splits: dict[str, SplitEntry]
    root: ObjectEntry
    tokenizer: TokenizerEntry | None = None
    """None, and then not written, in a store of features without sentences."""
    min_objects: int | None = None
    """The least boxes of an image; None where all have ``num_objects``, and then not written. A
    program that does not know the field refuses the store, instead of training on padding."""
    images_per_pair: int = 1
    """How many images a sentence is about: the objects of a row are those of each, one image behind
    the other. 1 is not written, so that, again, older programs refuse what they cannot read."""

    def all_objects(self) -> Iterator[ObjectEntry]:
        """Every object of the store, apart from the manifest and the pointer to it."""
        yield self.root
        if self.tokenizer is not None:
            yield from self.tokenizer.files
        yield from (v.file for v in (self.objects, self.attributes, self.answers))
        for split in self.splits.values():
            yield from split.objects()


def canonical_json(tree: Any) -> bytes:
    """The one spelling of a JSON value: sorted keys, no blanks, UTF-8."""
    return json.dumps(
        tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def encode(manifest: Manifest) -> tuple[bytes, str]:
    """The canonical bytes of a manifest and their SHA-256 (64 hex digits)."""
    usual = {"min_objects": None, "tokenizer": None, "images_per_pair": 1}
    tree = manifest.model_dump(mode="json")
    data = canonical_json({k: v for k, v in tree.items() if k not in usual or v != usual[k]})
    return data, hashlib.sha256(data).hexdigest()


def parse_pointer(data: bytes, uri: str) -> str:
    """The digest that a pointer names.

    Raises:
        StoreError: the pointer is no pointer, or of another schema version.
    """
    try:
        pointer = json.loads(data)
        version, digest = pointer["schema_version"], str(pointer["digest"])
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(
            f"{uris.shown(uri)} is not the pointer of a feature store; prepare the store again"
        ) from error
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{uris.shown(uri)}: schema version {version}, but this program reads version "
            f"{SCHEMA_VERSION}; prepare the store again with it, or use the program that wrote it"
        )
    return digest


def parse_manifest(data: bytes, digest: str, uri: str) -> Manifest:
    """The manifest with this digest.

    Raises:
        CorruptObjectError: the bytes have another digest.
        StoreError: they are no manifest of this version.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise CorruptObjectError(
            f"{uris.shown(uri)} was changed: its SHA-256 is {found}, the pointer says {digest}; "
            "prepare the store again"
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StoreError(
            f"{uris.shown(uri)} is not a manifest ({where}: {first['msg']}); prepare the store "
            "again"
        ) from error


def is_store_root(uri: str) -> bool:
    """Whether a store of ours, finished or not, begins at ``uri``.

    Raises:
        StoreError: the place is out of reach.
    """
    try:
        root = json.loads(uris.read_bytes(uris.join(uri, ROOT_KEY)))
        return bool(root["attributes"]["format"] == FORMAT)
    except (uris.MissingError, ValueError, TypeError, KeyError):
        return False
