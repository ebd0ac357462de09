"""LXMERT's pretraining data: features in TSV, files of sentences -> one store.

The features are read once, in the order of the store; the sentences twice, since only they tell
which images are wanted. Memory holds an index of the images (about 0.3 KB each) and what the
store's writer gathers, never a file.
"""

import hashlib
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lxmert_dist import keyed
from lxmert_dist.errors import DataError
from lxmert_dist.ingest.build import tokenise
from lxmert_dist.ingest.butd_tsv import Row, RowSizes
from lxmert_dist.ingest.feature_folder import Features, Place, open_features
from lxmert_dist.ingest.lxmert_json import AnswerTable, Item, raw_sentences
from lxmert_dist.ingest.pool import Mapper, Pool
from lxmert_dist.ingest.report import IngestReport
from lxmert_dist.ingest.sentence_files import SentenceFile
from lxmert_dist.ingest.shard_tasks import TsvRows, announce, write_images
from lxmert_dist.ingest.source import RawSentence
from lxmert_dist.ingest.stored_features import StoredFeatures
from lxmert_dist.ingest.tokenizer import load_tokenizer
from lxmert_dist.schema import Sentence
from lxmert_dist.store import FeatureFigures, StoreWriter

MINIVAL = "mscoco_minival"
MINIVAL_ROWS = 5_000
"""The images of ``mscoco_minival.json`` are the first rows of COCO val2014's features; those of
``mscoco_nominival.json``, which are trained on, stand behind them in the same file."""

TRAIN, VALID = "train", "valid"
NO_FEATURES = "sentences whose image has no features"
HELD_OUT = f"sentences of {TRAIN} whose image is in {VALID}"
NO_MINIVAL = f"sentences of {MINIVAL} whose image is not in the first {MINIVAL_ROWS:,} rows"
NO_PIECES = "sentences without a word piece"
TWICE = "rows of features whose image came before"
UNUSED = "images that no sentence is kept of"


@dataclass(frozen=True)
class LxmertFiles:
    """What to read.

    ``tsvs``: files of features, directories of them, or one store. ``valid``: the files of
    sentences, by their names, that become split ``valid``. ``dataset``: what the manifest calls it
    all.
    """

    tsvs: Sequence[Place]
    sentences: Sequence[SentenceFile]
    valid: Sequence[str] = (MINIVAL,)
    dataset: str = "lxmert"

    def of(self, split: str) -> list[SentenceFile]:
        """The files of sentences of a split."""
        return [file for file in self.sentences if (file.name in self.valid) == (split == VALID)]

    @property
    def read_paths(self) -> list[Path]:
        """Every file of sentences, as often as it is read."""
        return [path for file in self.sentences for path in file.paths]


@dataclass(frozen=True)
class FeatureFormat:
    """What the features are, and how they are stored.

    Names of classes are by id; ``dtype`` is ``float16`` or ``float32``; ``extractor`` is what made
    them, for the manifest.
    """

    sizes: RowSizes = field(default_factory=RowSizes)
    object_classes: Sequence[str] = tuple(f"object {i}" for i in range(1600))
    attribute_classes: Sequence[str] = tuple(f"attribute {i}" for i in range(400))
    dtype: str = "float16"
    images_per_shard: int = 64
    extractor: str = "bottom-up attention, published as TSV"


def prepare_lxmert(
    uri: str,
    files: LxmertFiles,
    *,
    answers: AnswerTable,
    tokenizer: str,
    seed: int,
    features: FeatureFormat | None = None,
    overwrite: bool = False,
    processes: int = 1,
    run_shards: Mapper | None = None,
    progress: bool = True,
) -> IngestReport:
    """Build the store: split ``train``, and ``valid`` where a file of it is given.

    An image is stored once, from the first row that has it, if a sentence is about it. An image
    that ``valid`` names is never trained on. What is left out is counted in the report. A build
    that was interrupted goes on: finished shards are kept if they would be the same.

    Args:
        uri: where the store will be.
        files: what to read, on this machine.
        answers: the answer table; its tally is brought up to date.
        tokenizer: directory or hub name.
        seed: of the order of images.
        features: their sizes, names and dtype; by default the published ones, in float16.
        overwrite: replace a finished store.
        processes: how many of this machine share the work.
        run_shards: does the tasks of the images elsewhere, where the TSV files and the store must
            be within reach by the same names.
        progress: show bars.

    Raises:
        DataError: a file is missing, damaged or inconsistent; names it and the line.
        StoreError: the store exists, or cannot be written.
        WorkerError: a process was killed.
    """
    began = time.monotonic()
    features = features or FeatureFormat()
    for path, times in Counter([*files.tsvs, *files.read_paths]).items():
        if times > 1:
            raise DataError(f"{path} is given twice; name each file once")
    for name in sorted({*files.valid} - {file.name for file in files.sentences} - {MINIVAL}):
        raise DataError(f"no file of sentences is called {name}, which is to be split {VALID!r}")
    dropped: Counter[str] = Counter()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        load_tokenizer(tokenizer).save_pretrained(str(scratch))
        opened: list[Features] = []
        for path in files.tsvs:
            opened.append(open_features(path, features.sizes))
            stack.callback(opened[-1].close)
        rows = _index(opened, dropped, progress)
        selection = _select(files, rows, progress)
        dropped[UNUSED] = len(rows) - sum(map(len, selection.images.values()))
        orders = {split: _ordered(rows, ids, seed) for split, ids in selection.images.items()}
        inputs = _inputs(opened, orders, seed)
        writer = _open_writer(uri, files, features, answers.answers, scratch, inputs, overwrite)
        announce(writer.notice, progress)
        pool = stack.enter_context(Pool(processes))
        written, figures = 0, FeatureFigures()
        for split, images in orders.items():
            split_writer = writer.split(split)
            written += write_images(
                split_writer,
                len(images),
                partial(_rows_of, images, features.sizes),
                run_shards or pool.map,
                f"features of {split}",
                progress,
            )
            said = _sentences(files.of(split), split, selection, answers, dropped, progress)
            split_writer.close(_with_pieces(tokenise(said, scratch, pool.map), dropped))
            figures += split_writer.figures
        digest = writer.finish()
        return IngestReport(
            uri=uri,
            digest=digest,
            dropped={reason: n for reason, n in dropped.items() if n},
            answers=answers.tally,
            features=figures,
            bytes_read=sum(file.num_bytes for file in opened) + _num_bytes(files.sentences),
            num_shards=written + len(writer.kept),
            kept_shards=len(writer.kept),
            seconds=time.monotonic() - began,
        )


def _open_writer(
    uri: str,
    files: LxmertFiles,
    features: FeatureFormat,
    answers: Sequence[str],
    tokenizer_dir: Path,
    inputs: Mapping[str, Any],
    overwrite: bool,
) -> StoreWriter:
    sizes = features.sizes
    return StoreWriter(
        uri,
        num_objects=sizes.num_objects,
        min_objects=sizes.min_objects,
        feature_dim=sizes.feature_dim,
        object_classes=features.object_classes,
        attribute_classes=features.attribute_classes,
        answers=answers,
        tokenizer_dir=tokenizer_dir,
        extractor=f"{features.extractor}, {sizes.boxes} boxes an image",
        images_per_shard=features.images_per_shard,
        feature_dtype=features.dtype,
        info={
            "dataset": files.dataset,
            "seed": inputs["seed"],
            "tsv": [Path(path).name for path in files.tsvs],
            "json": {
                split: [path.name for file in files.of(split) for path in file.paths]
                for split in (TRAIN, VALID)
            },
        },
        inputs=inputs,
        overwrite=overwrite,
    )


def _ordered(rows: Mapping[str, "_At"], ids: Iterable[str], seed: int) -> list["_At"]:
    """The images of a split in the order of the store.

    A store of features is in a drawn order already, and read in that, each object once.
    """
    names = sorted(ids)
    if names and isinstance(rows[names[0]].file, StoredFeatures):
        return sorted((rows[name] for name in names), key=lambda at: at.row.line)
    order = keyed.permutation(len(names), seed, 0, keyed.Purpose.STORE_ORDER)
    return [rows[names[place]] for place in order]


def _rows_of(images: Sequence["_At"], sizes: RowSizes, places: slice) -> TsvRows:
    return TsvRows(tuple((at.file.path, at.row) for at in images[places]), sizes)


def _inputs(
    files: Sequence[Features], orders: Mapping[str, Sequence["_At"]], seed: int
) -> dict[str, Any]:
    """What decides what every shard holds."""
    number = {file.path: index for index, file in enumerate(files)}
    inputs: dict[str, Any] = {"seed": seed}
    for file in files:
        inputs[f"--tsv {Path(file.path).name}"] = [number[file.path], file.num_bytes, file.probe()]
    for split, images in orders.items():
        lines = (f"{number[at.file.path]} {at.row.start} {at.row.image_id}\n" for at in images)
        inputs[f"images of {split}"] = hashlib.sha256("".join(lines).encode()).hexdigest()
    return inputs


@dataclass(frozen=True)
class _At:
    file: Features
    row: Row


@dataclass(frozen=True)
class _Selection:
    """The images of each split."""

    rows: Mapping[str, _At]
    images: Mapping[str, frozenset[str]]

    def objection(self, split: str, image_id: str) -> str | None:
        """Why the sentences of an image are left out of a split, or None."""
        if image_id in self.images[split]:
            return None
        if image_id not in self.rows:
            return NO_FEATURES
        return HELD_OUT if split == TRAIN else NO_MINIVAL


def _index(files: Sequence[Features], dropped: Counter[str], progress: bool) -> dict[str, _At]:
    """Where the features of every image are; the first row of an image counts."""
    rows: dict[str, _At] = {}
    with _bar("finding rows", sum(file.num_bytes for file in files), progress) as bar:
        for file in files:
            for row in file.index():
                if row.image_id in rows:
                    dropped[TWICE] += 1
                else:
                    rows[row.image_id] = _At(file, row)
                bar.update(row.length)
    return rows


def _select(files: LxmertFiles, rows: Mapping[str, _At], progress: bool) -> _Selection:
    named: dict[str, set[str]] = {TRAIN: set(), VALID: set()}
    kept: set[str] = set()  # of valid
    for split, item, file in _all_items(files, progress):
        image_id = _name(item, rows)
        named[split].add(image_id)
        at = rows.get(image_id)
        if split == VALID and at and (file.name != MINIVAL or at.row.line <= MINIVAL_ROWS):
            kept.add(image_id)
    chosen = {TRAIN: named[TRAIN] & rows.keys() - named[VALID], VALID: kept}
    wanted = [split for split in (TRAIN, VALID) if files.of(split)]
    for split in wanted:
        if not chosen[split]:
            raise DataError(
                f"none of the {len(named[split])} images of split {split!r} has features that it "
                f"may use; do {' '.join(str(path) for path in files.tsvs)} belong to "
                f"{' '.join(str(path) for file in files.of(split) for path in file.paths)}?"
            )
    return _Selection(rows, {split: frozenset(chosen[split]) for split in wanted})


def _all_items(files: LxmertFiles, progress: bool) -> Iterator[tuple[str, Item, SentenceFile]]:
    with _bar("checking sentences", _num_bytes(files.sentences), progress) as bar:
        for split in (TRAIN, VALID):
            for file in files.of(split):
                for item in file.items(bar.update):
                    yield split, item, file


def _sentences(
    files: Sequence[SentenceFile],
    split: str,
    selection: _Selection,
    answers: AnswerTable,
    dropped: Counter[str],
    progress: bool,
) -> Iterator[RawSentence]:
    """The sentences of a split whose images are in it; counts the others."""
    taken: Counter[str] = Counter()
    with _bar(f"sentences of {split}", _num_bytes(files), progress) as bar:
        for file in files:
            for item in file.items(bar.update):
                image_id = _name(item, selection.rows)
                objection = selection.objection(split, image_id)
                if objection:
                    dropped[objection] += item.num_sentences
                else:
                    yield from raw_sentences(replace(item, image_id=image_id), answers, taken)


def _name(item: Item, rows: Mapping[str, _At]) -> str:
    """What the image is called among the features."""
    return next((name for name in item.other_names if name in rows), item.image_id)


def _num_bytes(files: Sequence[SentenceFile]) -> int:
    paths = [path for file in files for path in file.paths]
    return sum(path.stat().st_size for path in paths if path.exists())


def _with_pieces(sentences: Iterable[Sentence], dropped: Counter[str]) -> Iterator[Sentence]:
    for sentence in sentences:
        if len(sentence.token_ids):
            yield sentence
        else:
            dropped[NO_PIECES] += 1


def _bar(what: str, total: int, progress: bool) -> Any:
    return tqdm(
        total=total, desc=what, unit="B", unit_scale=True, unit_divisor=1024, disable=not progress
    )
