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

from lxmert_dist import keyed
from lxmert_dist.ingest.build import tokenise
from lxmert_dist.ingest.butd_tsv import RowSizes
from lxmert_dist.ingest.feature_folder import Features, open_features
from lxmert_dist.ingest.lxmert_json import AnswerTable, raw_sentences
from lxmert_dist.ingest.pool import Mapper, Pool
from lxmert_dist.ingest.report import IngestReport
from lxmert_dist.ingest.selection import (
    SPLITS,
    TEST,
    LxmertFiles,
    Parts,
    Selection,
    byte_bar,
    find_rows,
    name_of,
    num_bytes,
    select,
)
from lxmert_dist.ingest.sentence_files import SentenceFile
from lxmert_dist.ingest.shard_tasks import TsvRows, announce, write_images
from lxmert_dist.ingest.source import RawSentence
from lxmert_dist.ingest.stored_features import StoredFeatures
from lxmert_dist.ingest.tokenizer import keep_tokenizer
from lxmert_dist.schema import Sentence
from lxmert_dist.store import FeatureFigures, StoreWriter

NO_PIECES = "sentences without a word piece"
UNUSED = "images that no sentence is kept of"


@dataclass(frozen=True)
class FeatureFormat:
    """What the features are, and how they are stored.

    Names of classes are by id; ``dtype`` is ``float16`` or ``float32``; ``extractor`` is what made
    them, for the manifest, which adds the number of boxes; ``detector`` is its whole name, where it
    is known.
    """

    sizes: RowSizes = field(default_factory=RowSizes)
    object_classes: Sequence[str] = tuple(f"object {i}" for i in range(1600))
    attribute_classes: Sequence[str] = tuple(f"attribute {i}" for i in range(400))
    dtype: str = "float16"
    images_per_shard: int = 64
    extractor: str = "bottom-up attention, published as TSV"
    detector: str = ""


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
    """Build the store: split ``train``, and ``valid`` and ``test`` where a file of them is given.

    An image is stored once, from the first row that has it, if a sentence is about it. An image
    that ``valid`` or ``test`` names is never trained on. Where sentences are about two images, a
    row of the store has the objects of both. What is left out is counted in the report. A build
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
    files.check()
    dropped: Counter[str] = Counter()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        keep_tokenizer(scratch, tokenizer)
        opened: list[Features] = []
        for path in files.tsvs:
            opened.append(open_features(path, features.sizes))
            stack.callback(opened[-1].close)
        rows = find_rows(opened, dropped, progress)
        selection = select(files, rows, progress)
        dropped[UNUSED] = len(rows) - selection.used
        places = selection.places
        orders = {split: _ordered(places, ids, seed) for split, ids in selection.images.items()}
        inputs = _inputs(opened, orders, seed)
        number = selection.images_per_pair
        writer = _open_writer(
            uri, files, features, number, answers.answers, scratch, inputs, overwrite
        )
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
            bytes_read=sum(file.num_bytes for file in opened) + num_bytes(files.sentences),
            num_shards=written + len(writer.kept),
            kept_shards=len(writer.kept),
            seconds=time.monotonic() - began,
        )


def _open_writer(
    uri: str,
    files: LxmertFiles,
    features: FeatureFormat,
    images_per_pair: int,
    answers: Sequence[str],
    tokenizer_dir: Path,
    inputs: Mapping[str, Any],
    overwrite: bool,
) -> StoreWriter:
    sizes = features.sizes
    return StoreWriter(
        uri,
        num_objects=images_per_pair * sizes.num_objects,
        min_objects=sizes.min_objects,
        images_per_pair=images_per_pair,
        feature_dim=sizes.feature_dim,
        object_classes=features.object_classes,
        attribute_classes=features.attribute_classes,
        answers=answers,
        tokenizer_dir=tokenizer_dir,
        extractor=features.detector or f"{features.extractor}, {sizes.boxes} boxes an image",
        images_per_shard=features.images_per_shard,
        feature_dtype=features.dtype,
        info={
            "dataset": files.dataset,
            "seed": inputs["seed"],
            "tsv": [Path(path).name for path in files.tsvs],
            "json": {
                split: [path.name for file in files.of(split) for path in file.paths]
                for split in SPLITS
                if split != TEST or files.test
            },
        },
        inputs=inputs,
        overwrite=overwrite,
    )


def _ordered(places: Mapping[str, Parts], ids: Iterable[str], seed: int) -> list[Parts]:
    """The rows of a split in the order of the store.

    A store of features is in a drawn order already, and read in that, each object once.
    """
    names = sorted(ids)
    if names and isinstance(places[names[0]][0].file, StoredFeatures):
        return sorted((places[name] for name in names), key=lambda parts: parts[0].row.line)
    order = keyed.permutation(len(names), seed, 0, keyed.Purpose.STORE_ORDER)
    return [places[names[index]] for index in order]


def _rows_of(images: Sequence[Parts], sizes: RowSizes, chosen: slice) -> TsvRows:
    rows = (tuple((at.file.path, at.row) for at in place) for place in images[chosen])
    return TsvRows(tuple(rows), sizes)


def _inputs(
    files: Sequence[Features], orders: Mapping[str, Sequence[Parts]], seed: int
) -> dict[str, Any]:
    """What decides what every shard holds."""
    number = {file.path: index for index, file in enumerate(files)}
    inputs: dict[str, Any] = {"seed": seed}
    for file in files:
        inputs[f"--tsv {Path(file.path).name}"] = [number[file.path], file.num_bytes, file.probe()]
    for split, images in orders.items():
        lines = (
            f"{number[at.file.path]} {at.row.start} {at.row.image_id}\n"
            for place in images
            for at in place
        )
        inputs[f"images of {split}"] = hashlib.sha256("".join(lines).encode()).hexdigest()
    return inputs


def _sentences(
    files: Sequence[SentenceFile],
    split: str,
    selection: Selection,
    answers: AnswerTable,
    dropped: Counter[str],
    progress: bool,
) -> Iterator[RawSentence]:
    """The sentences of a split whose images are in it; counts the others."""
    taken: Counter[str] = Counter()
    with byte_bar(f"sentences of {split}", num_bytes(files), progress) as bar:
        for file in files:
            for item in file.items(bar.update):
                image_id = name_of(item, selection.places)
                objection = selection.objection(split, image_id)
                if objection:
                    dropped[objection] += item.num_sentences
                else:
                    yield from raw_sentences(replace(item, image_id=image_id), answers, taken)


def _with_pieces(sentences: Iterable[Sentence], dropped: Counter[str]) -> Iterator[Sentence]:
    for sentence in sentences:
        if len(sentence.token_ids):
            yield sentence
        else:
            dropped[NO_PIECES] += 1
