"""Open a store, and trust nothing that its manifest does not vouch for."""

import json
import shutil
import tempfile
import threading
import weakref
from pathlib import Path

from lxmert_dist.errors import StoreError
from lxmert_dist.schema import DataSpec
from lxmert_dist.store import uri as uris
from lxmert_dist.store.access import local_copy, read_object
from lxmert_dist.store.cache import DiskCache
from lxmert_dist.store.catalogue import open_catalogue
from lxmert_dist.store.fetch import Fetcher
from lxmert_dist.store.layout import POINTER_KEY
from lxmert_dist.store.manifest import Manifest, TokenizerEntry, VocabularyEntry
from lxmert_dist.store.read_settings import ReadSettings
from lxmert_dist.store.split import Split

DEFAULTS = ReadSettings()


class Store:
    """An open store. Copies of remote files live in a temporary directory until it is collected.

    Attributes:
        uri: where it is.
        digest: of its manifest, 64 hex digits; names exactly these data.
        manifest: everything that is in it.
        object_classes: names of the detector's object classes, by id.
        attribute_classes: names of its attribute classes, by id.
        answers: the answer table, by id.
    """

    def __init__(
        self, uri: str, digest: str, manifest: Manifest, settings: ReadSettings = DEFAULTS
    ) -> None:
        """Read the vocabularies; :func:`open_store` finds the manifest.

        Raises:
            StoreError: a vocabulary is missing, damaged or out of reach, or the cache cannot be
                used.
        """
        self.uri = uri
        self.digest = digest
        self.manifest = manifest
        self.object_classes = _vocabulary(uri, manifest.objects)
        self.attribute_classes = _vocabulary(uri, manifest.attributes)
        self.answers = _vocabulary(uri, manifest.answers)
        self._scratch = Path(tempfile.mkdtemp(prefix="lxmert_dist_"))
        weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        self._settings = settings
        self._cache: DiskCache | None = None
        if settings.cache and uris.local_path(uri) is None:
            directory = Path(settings.cache).expanduser()
            self._cache = DiskCache(directory, settings.cache_bytes, settings.patience_s)
        self._splits: dict[str, Split] = {}
        self._lock = threading.Lock()

    @property
    def tokenizer(self) -> TokenizerEntry:
        """What made the token ids.

        Raises:
            StoreError: these are features without sentences.
        """
        if self.manifest.tokenizer is None:
            place = uris.shown(self.uri)
            raise StoreError(
                f"{place} holds features without sentences; build a store of pairs of it: "
                f"launch/prepare.py own --features {place} --sentences FILE --out URI"
            )
        return self.manifest.tokenizer

    @property
    def spec(self) -> DataSpec:
        """The sizes that a model takes from it.

        Raises:
            StoreError: these are features without sentences.
        """
        manifest, tokenizer = self.manifest, self.tokenizer
        return DataSpec(
            vocab_size=tokenizer.vocab_size,
            pad_id=tokenizer.pad_id,
            cls_id=tokenizer.cls_id,
            sep_id=tokenizer.sep_id,
            mask_id=tokenizer.mask_id,
            num_objects=manifest.num_objects,
            feature_dim=manifest.feature_dim,
            num_object_classes=manifest.objects.size,
            num_attribute_classes=manifest.attributes.size,
            num_answers=manifest.answers.size,
            images_per_pair=manifest.images_per_pair,
        )

    def split(self, name: str) -> Split:
        """A split, read when it is first asked for.

        Raises:
            StoreError: there is none of that name, or it is damaged or out of reach.
        """
        if name not in self.manifest.splits:
            raise StoreError(
                f"{uris.shown(self.uri)} has no split {name!r}; "
                f"choose among {', '.join(self.manifest.splits)}"
            )
        with self._lock:
            if name not in self._splits:
                fetcher = Fetcher(self.uri, self._settings)
                self._splits[name] = Split(
                    self.uri, name, self.manifest, self._scratch, fetcher, self._cache
                )
            return self._splits[name]

    def tokenizer_dir(self) -> Path:
        """A local directory with the tokenizer's files, valid as long as this store.

        Raises:
            StoreError: a file is missing, damaged or out of reach, or there is no tokenizer.
        """
        paths = [local_copy(self.uri, file, self._scratch) for file in self.tokenizer.files]
        return paths[0].parent


def open_store(uri: str, settings: ReadSettings = DEFAULTS) -> Store:
    """Open the finished store at a path or fsspec URI.

    Args:
        uri: of the store.
        settings: of how features are read; the features of a local store are not cached.

    Raises:
        StoreError: there is no store, it is half-written, of another schema version, its manifest
            was changed, or it is out of reach.
    """
    catalogue = open_catalogue(uri)
    return Store(uri, catalogue.digest, catalogue.manifest, settings)


def has_store(uri: str) -> bool:
    """Whether there is a finished store at ``uri``; a half-written one does not count.

    Raises:
        StoreError: the place is out of reach.
    """
    return uris.exists(uris.join(uri, POINTER_KEY))


def _vocabulary(uri: str, entry: VocabularyEntry) -> list[str]:
    words: list[str] = json.loads(read_object(uri, entry.file))
    return words
