"""Which images and sentences go into which split of a store, and where their features are."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from lxmert_dist.errors import DataError
from lxmert_dist.ingest.butd_tsv import Row
from lxmert_dist.ingest.feature_folder import Features, Place
from lxmert_dist.ingest.image_pairs import pair_id
from lxmert_dist.ingest.lxmert_json import Item
from lxmert_dist.ingest.sentence_files import SentenceFile

MINIVAL = "mscoco_minival"
MINIVAL_ROWS = 5_000
"""The images of ``mscoco_minival.json`` are the first rows of COCO val2014's features; those of
``mscoco_nominival.json``, which are trained on, stand behind them in the same file."""

TRAIN, VALID, TEST = "train", "valid", "test"
SPLITS = (TRAIN, VALID, TEST)
NO_FEATURES = "sentences whose image has no features"
HELD_OUT = f"sentences of {TRAIN} whose image is in {VALID} or {TEST}"
NO_MINIVAL = f"sentences of {MINIVAL} whose image is not in the first {MINIVAL_ROWS:,} rows"
TWICE = "rows of features whose image came before"


@dataclass(frozen=True)
class LxmertFiles:
    """What to read.

    ``tsvs``: files of features, directories of them, or one store. ``valid``, ``test``: the files
    of sentences, by their names, that become these splits; the others are trained on. ``dataset``:
    what the manifest calls it all.
    """

    tsvs: Sequence[Place]
    sentences: Sequence[SentenceFile]
    valid: Sequence[str] = (MINIVAL,)
    test: Sequence[str] = ()
    dataset: str = "lxmert"

    def check(self) -> None:
        """See that every file is given once, and that the named ones are there.

        Raises:
            DataError: names the file.
        """
        for path, times in Counter([*self.tsvs, *self.read_paths]).items():
            if times > 1:
                raise DataError(f"{path} is given twice; name each file once")
        names = {file.name for file in self.sentences}
        for split, chosen in ((VALID, {*self.valid} - {MINIVAL}), (TEST, {*self.test})):
            for name in sorted(chosen - names):
                raise DataError(
                    f"no file of sentences is called {name}, which is to be split {split!r}; name "
                    "one that is given"
                )
        for name in sorted({*self.valid} & {*self.test}):
            raise DataError(f"{name} is to be both split {VALID!r} and split {TEST!r}; choose one")

    def texts(self, split: str) -> Iterator[str]:
        """Every sentence of a split's files, as they stand."""
        for file in self.of(split):
            for item in file.items(lambda _: None):
                yield from chain.from_iterable(item.sentences.values())

    def of(self, split: str) -> list[SentenceFile]:
        """The files of sentences of a split."""
        return [file for file in self.sentences if self._split_of(file.name) == split]

    @property
    def read_paths(self) -> list[Path]:
        """Every file of sentences, as often as it is read."""
        return [path for file in self.sentences for path in file.paths]

    def _split_of(self, name: str) -> str:
        return TEST if name in self.test else VALID if name in self.valid else TRAIN


@dataclass(frozen=True)
class At:
    """Where the features of an image are."""

    file: Features
    row: Row


Parts = tuple[At, ...]
"""Where the features of one row of a store are: those of an image, or of each of a pair's."""


@dataclass(frozen=True)
class Selection:
    """The rows of each split, by their ids; ``places`` has more than was chosen."""

    places: Mapping[str, Parts]
    images: Mapping[str, frozenset[str]]

    def objection(self, split: str, image_id: str) -> str | None:
        """Why the sentences of an image are left out of a split, or None."""
        if image_id in self.images[split]:
            return None
        if image_id not in self.places:
            return NO_FEATURES
        return HELD_OUT if split == TRAIN else NO_MINIVAL

    @property
    def images_per_pair(self) -> int:
        """How many images a sentence is about.

        Raises:
            DataError: some sentences are about one, and others about two.
        """
        numbers = {len(self.places[name]) for ids in self.images.values() for name in ids}
        if len(numbers) > 1:
            raise DataError(
                "some files have sentences about one image, others about two; make a store of each"
            )
        return numbers.pop()

    @property
    def used(self) -> int:
        """How many images with features are in any split."""
        return len(_images_of(self.places, frozenset().union(*self.images.values())))


def find_rows(files: Sequence[Features], dropped: Counter[str], progress: bool) -> dict[str, At]:
    """Where the features of every image are; the first row of an image counts."""
    rows: dict[str, At] = {}
    with byte_bar("finding rows", sum(file.num_bytes for file in files), progress) as bar:
        for file in files:
            for row in file.index():
                if row.image_id in rows:
                    dropped[TWICE] += 1
                else:
                    rows[row.image_id] = At(file, row)
                bar.update(row.length)
    return rows


def select(files: LxmertFiles, rows: Mapping[str, At], progress: bool) -> Selection:
    """Read every sentence once, and say which images each split gets.

    Raises:
        DataError: a file is damaged, or a split would be empty; names the files.
    """
    places: dict[str, Parts] = {name: (at,) for name, at in rows.items()}
    named: dict[str, set[str]] = {split: set() for split in SPLITS}
    kept: set[str] = set()  # of valid
    for split, item, file in _all_items(files, progress):
        image_id = name_of(item, rows)
        named[split].add(image_id)
        if item.pair and all(name in rows for name in item.pair):
            places[image_id] = tuple(rows[name] for name in item.pair)
        late = file.name == MINIVAL and image_id in rows and rows[image_id].row.line > MINIVAL_ROWS
        if split == VALID and image_id in places and not late:
            kept.add(image_id)
    held_out = _images_of(places, named[VALID] | named[TEST])
    trained = {
        name
        for name in named[TRAIN] & places.keys()
        if held_out.isdisjoint(_images_of(places, {name}))
    }
    chosen = {TRAIN: trained, VALID: kept, TEST: named[TEST] & places.keys()}
    wanted = [split for split in SPLITS if files.of(split)]
    for split in wanted:
        if not chosen[split]:
            raise DataError(
                f"none of the {len(named[split])} images of split {split!r} has features that it "
                f"may use; check that {' '.join(str(path) for path in files.tsvs)} belongs to "
                f"{' '.join(str(path) for file in files.of(split) for path in file.paths)}"
            )
    return Selection(places, {split: frozenset(chosen[split]) for split in wanted})


def name_of(item: Item, places: Mapping[str, Any]) -> str:
    """What the image, or the pair of images, is called among the features."""
    if item.pair:
        return pair_id(item.pair)
    return next((name for name in item.other_names if name in places), item.image_id)


def num_bytes(files: Sequence[SentenceFile]) -> int:
    """Of all files, as often as they are read once."""
    paths = [path for file in files for path in file.paths]
    return sum(path.stat().st_size for path in paths if path.exists())


def byte_bar(what: str, total: int, progress: bool) -> Any:
    """A bar over the bytes of files."""
    return tqdm(
        total=total, desc=what, unit="B", unit_scale=True, unit_divisor=1024, disable=not progress
    )


def _images_of(places: Mapping[str, Parts], names: Set[str]) -> frozenset[str]:
    """The images in some rows of a store, as far as they have features."""
    return frozenset(at.row.image_id for name in names & places.keys() for at in places[name])


def _all_items(files: LxmertFiles, progress: bool) -> Iterator[tuple[str, Item, SentenceFile]]:
    with byte_bar("checking sentences", num_bytes(files.sentences), progress) as bar:
        for split in SPLITS:
            for file in files.of(split):
                for item in file.items(bar.update):
                    yield split, item, file
