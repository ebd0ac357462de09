"""RoI records and sentences -> a store: data first, manifest next, pointer last."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lxmert_dist.errors import DataError
from lxmert_dist.store import chunks
from lxmert_dist.store import uri as uris
from lxmert_dist.store.claim import claim, finished_parts, remember
from lxmert_dist.store.layout import (
    FORMAT,
    MANIFESTS,
    PARTS,
    POINTER_KEY,
    ROOT_KEY,
    SCHEMA_VERSION,
    TOKENIZER,
    VOCABULARIES,
    manifest_key,
)
from lxmert_dist.store.manifest import (
    Manifest,
    ObjectEntry,
    SplitEntry,
    TokenizerEntry,
    VocabularyEntry,
    canonical_json,
    encode,
)
from lxmert_dist.store.shard import ImageSizes
from lxmert_dist.store.split_writer import SplitWriter
from lxmert_dist.store.tokenizer import describe_tokenizer, tokenizer_files

MAX_IDS = 1 << 15
"""Class and answer ids are stored as int16."""

JOB_VERSION = 1
"""Of the parts and of what is written into a shard; a half-written store of another starts anew."""

FEATURE_DTYPES = ("float16", "float32")
_SPLIT_NAME = re.compile(r"[a-z][a-z0-9_]*")
_RESERVED = (MANIFESTS, PARTS, TOKENIZER, VOCABULARIES)


class StoreWriter:
    """Writes one store. What it wrote before :meth:`finish` is a half-written store.

    Attributes:
        uri: where it will be.
        kept: keys of the parts of shards that an earlier process finished.
        notice: a line for the user if a half-written store was there, else empty.
    """

    def __init__(
        self,
        uri: str,
        *,
        num_objects: int,
        min_objects: int | None = None,
        images_per_pair: int = 1,
        feature_dim: int,
        object_classes: Sequence[str],
        attribute_classes: Sequence[str],
        answers: Sequence[str],
        tokenizer_dir: Path | None,
        extractor: str,
        images_per_shard: int = 64,
        feature_dtype: str = "float16",
        info: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Claim ``uri``, and write what does not depend on the images.

        Args:
            uri: where the store will be; a half-written store there is replaced, or continued if
                it is of the same inputs and sizes.
            num_objects: O, boxes of every image; of every row, where sentences are about several.
            min_objects: the least boxes of an image, where some have fewer than ``num_objects``:
                theirs are padded with zeros, and counted. None, or ``num_objects``, is a store
                whose images all have as many.
            images_per_pair: how many images a sentence is about; it divides ``num_objects``.
            feature_dim: F, width of a feature.
            object_classes: names of the detector's object classes, at most 32,768.
            attribute_classes: names of its attribute classes, at most 32,768.
            answers: the answer table, at most 32,768, each one once.
            tokenizer_dir: the tokenizer that made the token ids; its files are copied. None is a
                store of features without sentences.
            extractor: name of the detector, with weights and selection rule.
            images_per_shard: images in one object of features.
            feature_dtype: ``float16`` or ``float32``.
            info: whatever the ingest wants to be remembered; JSON values.
            inputs: what decides which image is where and what is in it, as JSON values; None if
                nobody can tell, and a half-written store is to be replaced.
            overwrite: replace a finished store.

        Raises:
            StoreError: there is a finished store and ``overwrite`` is not set, or something that
                is no store, or the place cannot be written.
            DataError: a size, a table or the tokenizer does not fit a store.
        """
        if feature_dtype not in FEATURE_DTYPES:
            raise DataError(
                f"feature_dtype={feature_dtype} must be one of {', '.join(FEATURE_DTYPES)}"
            )
        if min(num_objects, feature_dim, images_per_shard) < 1:
            raise DataError("num_objects, feature_dim and images_per_shard must be at least 1")
        if min_objects is not None and not 1 <= min_objects <= num_objects:
            raise DataError(
                f"min_objects={min_objects} must be at least 1 and at most num_objects="
                f"{num_objects}"
            )
        if num_objects % images_per_pair or (images_per_pair > 1 and min_objects is not None):
            raise DataError(
                f"a row of {images_per_pair} images has as many boxes of each: num_objects="
                f"{num_objects}, min_objects={min_objects}; leave --min-boxes out"
            )
        vocabularies = {
            "objects": list(object_classes),
            "attributes": list(attribute_classes),
            "answers": list(answers),
        }
        _check_vocabularies(vocabularies)
        self.uri = uri
        self._tokenizer = None if tokenizer_dir is None else describe_tokenizer(tokenizer_dir)
        self._sizes = ImageSizes(
            num_objects=num_objects,
            feature_dim=feature_dim,
            feature_dtype=feature_dtype,
            images_per_shard=images_per_shard,
            num_object_classes=len(object_classes),
            num_attribute_classes=len(attribute_classes),
            min_objects=None if min_objects == num_objects else min_objects,
        )
        self._answer_ids = {answer: i for i, answer in enumerate(answers)}
        self._images_per_pair = images_per_pair
        self._extractor = extractor
        self._info = json.loads(canonical_json(dict(info or {})))
        self._splits: dict[str, SplitWriter] = {}
        job = None if inputs is None else self._job(inputs)
        reason = claim(uri, job, overwrite)
        self.kept = frozenset[str]() if reason is not None else finished_parts(uri, self._sizes)
        self.notice = _notice(reason, len(self.kept))
        self._root = self._put(
            ROOT_KEY, chunks.group_metadata({"format": FORMAT, "schema_version": SCHEMA_VERSION})
        )
        if job is not None:
            remember(uri, job)
        self._vocabularies = {
            name: VocabularyEntry(
                size=len(words),
                file=self._put(f"{VOCABULARIES}/{name}.json", canonical_json(words)),
            )
            for name, words in vocabularies.items()
        }
        files = {} if tokenizer_dir is None else tokenizer_files(tokenizer_dir)
        self._tokenizer_files = tuple(
            self._put(f"{TOKENIZER}/{name}", data) for name, data in files.items()
        )

    def split(self, name: str) -> SplitWriter:
        """Begin a split; append its images, then close it with its sentences.

        Raises:
            DataError: the name is taken, or is not lower-case letters, digits and underscores.
        """
        if not _SPLIT_NAME.fullmatch(name) or name in _RESERVED:
            raise DataError(f"{name!r} cannot name a split: use letters, digits and underscores")
        if name in self._splits:
            raise DataError(f"there is a split {name!r} already; name this one otherwise")
        self._splits[name] = SplitWriter(
            self.uri,
            name,
            self._sizes,
            self._answer_ids,
            0 if self._tokenizer is None else self._tokenizer["vocab_size"],
            self.kept,
        )
        return self._splits[name]

    def finish(self) -> str:
        """Write the manifest, then the pointer to it.

        Returns:
            The manifest's digest, 64 hex digits.

        Raises:
            DataError: there are no splits, or one is not closed.
            StoreError: the place cannot be written.
        """
        if not self._splits:
            raise DataError(f"{uris.shown(self.uri)}: a store needs at least one split")
        splits: dict[str, SplitEntry] = {}
        for name, split in sorted(self._splits.items()):
            if split.entry is None:
                raise DataError(
                    f"{uris.shown(self.uri)}: split {name!r} was not closed; "
                    "close it before the store is finished"
                )
            splits[name] = split.entry
        sizes, tokenizer = self._sizes, None
        if self._tokenizer is not None:
            tokenizer = TokenizerEntry(**self._tokenizer, files=self._tokenizer_files)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            num_objects=sizes.num_objects,
            min_objects=sizes.min_objects,
            images_per_pair=self._images_per_pair,
            feature_dim=sizes.feature_dim,
            feature_dtype=sizes.feature_dtype,
            images_per_shard=sizes.images_per_shard,
            extractor=self._extractor,
            info=self._info,
            tokenizer=tokenizer,
            objects=self._vocabularies["objects"],
            attributes=self._vocabularies["attributes"],
            answers=self._vocabularies["answers"],
            splits=splits,
            root=self._root,
        )
        data, digest = encode(manifest)
        uris.write_bytes(uris.join(self.uri, manifest_key(digest)), data)
        pointer = canonical_json({"schema_version": SCHEMA_VERSION, "digest": digest})
        uris.write_bytes(uris.join(self.uri, POINTER_KEY), pointer)
        uris.delete_tree(uris.join(self.uri, PARTS))
        return digest

    def _job(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What must be the same for a finished shard to be kept."""
        return {
            "version": [SCHEMA_VERSION, JOB_VERSION],
            "sizes": {k: v for k, v in asdict(self._sizes).items() if v is not None},
            "extractor": self._extractor,
            **inputs,
        }

    def _put(self, key: str, data: bytes) -> ObjectEntry:
        uris.write_bytes(uris.join(self.uri, key), data)
        return ObjectEntry.of(key, data)


def _check_vocabularies(vocabularies: Mapping[str, Sequence[str]]) -> None:
    for name, words in vocabularies.items():
        if len(words) > MAX_IDS:
            raise DataError(
                f"{len(words)} {name}, but a store holds at most {MAX_IDS}; leave some out"
            )
    answers = vocabularies["answers"]
    if len(set(answers)) != len(answers):
        twice = next(answer for answer in answers if answers.count(answer) > 1)
        raise DataError(f"the answer table has {twice!r} more than once; leave one out")


def _notice(reason: str | None, kept: int) -> str:
    if reason is None:
        return f"going on with the half-written store: {kept:,} finished shards are kept"
    return f"{reason}: starting anew" if reason else ""
