"""A made-up store of any size, for load tests: what is where is as in LXMERT's pretraining data.

Image i is the same whatever the number of images. Every draw is ``keyed``, and a distribution is
the inverse of a cumulative sum, so that nothing hangs on a mathematics library.

The paper's table 1 gives groups of images and the mean number of their sentences by source; counts
spread about it like a Poisson's, above the least that each data set asks for. Word pieces a
sentence: COCO captions 10.5 words (Chen et al. 2015), VG region descriptions 5 (Krishna et al.
2017), VQA questions 6.2 (Antol et al. 2015), GQA 7.9 (Hudson & Manning 2019), VG questions 5.7
(Krishna et al. 2017), and a mark at the end of a sentence. Words, classes and answers follow Zipf.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float64, Int64
from tqdm.auto import tqdm

from lxmert_dist import keyed
from lxmert_dist.errors import DataError
from lxmert_dist.ingest.amounts import SOURCES
from lxmert_dist.ingest.pool import Mapper, Pool
from lxmert_dist.ingest.shard_tasks import announce, write_images
from lxmert_dist.ingest.tokenizer import load_tokenizer
from lxmert_dist.schema import RoiRecord, Sentence
from lxmert_dist.store import StoreWriter

IMAGES = np.array([72.0, 51.0, 57.0])
"""Images of COCO alone, of both, and of VG alone, in thousands."""

PAIRS = np.array(
    [[361, 0, 387, 0, 0], [256, 2540, 271, 515, 724], [0, 2850, 0, 556, 718]], np.float64
)
"""Pairs by group and source, in thousands."""

LEAST = (5, 10, 3, 1, 1)
"""Sentences of an image, of a source that it has."""

PIECES = (11.8, 5.3, 7.4, 9.0, 6.9)
SHORTEST = (8, 2, 4, 4, 4)
"""Word pieces of a sentence by source, the mean and the least."""

ANSWERED = 0.9
"""Share of questions whose answer is in the table (section 3.1.4 of the paper)."""

VALID_SHARE = 5 / 180
"""Of all images; they are of COCO, as minival is."""

_ID_FORMATS = ("COCO_train2014_{:012d}", "COCO_val2014_{:012d}", "{}")
_SIZES = np.array([(480, 640), (640, 480), (427, 640), (600, 800)])  # height, width
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_MOST = 1 << 10  # sentences of an image, and ...
_LONGEST = 1 << 6  # ... word pieces of a sentence, below which their keys stay apart
_BLOCK = 256


class _Field(IntEnum):
    """What is drawn."""

    GROUP = 0
    SENTENCES = 1
    PIECES = 2
    WORD = 3
    ANSWERED = 4
    ANSWER = 5
    SCORE = 6
    SIZE = 7
    CORNER = 8
    EXTENT = 9
    OBJECT = 10
    ATTRIBUTE = 11
    OBJECT_SCORE = 12
    ATTRIBUTE_SCORE = 13
    PROTOTYPE = 14
    STRENGTH = 15
    BOXES = 16


class SyntheticImages:
    """Everything about images, by their numbers."""

    def __init__(
        self,
        seed: int,
        *,
        num_objects: int = 36,
        min_objects: int | None = None,
        feature_dim: int = 2048,
        num_object_classes: int = 1600,
        num_attribute_classes: int = 400,
        num_answers: int = 9500,
        vocab_size: int = 30522,
    ) -> None:
        """Choose the sizes; features are drawn about a prototype of each object class.

        Images have ``num_objects`` boxes or, where it is given, any number from ``min_objects`` on,
        each as likely: the first of those that the image would have else.

        Raises:
            DataError: a size is too small, or ``min_objects`` too large.
        """
        sizes = (num_objects, feature_dim, num_object_classes, num_attribute_classes)
        if min(sizes) < 1 or num_answers < 3 or vocab_size <= len(_SPECIAL):
            raise DataError(
                "a synthetic store needs at least 1 object, feature and class, 3 answers, and "
                f"{len(_SPECIAL) + 1} word pieces"
            )
        if min_objects is not None and not 1 <= min_objects <= num_objects:
            raise DataError(
                f"--min-boxes {min_objects} must be at least 1 and at most --boxes {num_objects}"
            )
        self._arguments = (seed, *sizes, num_answers, vocab_size)
        self.seed = seed
        self.num_objects = num_objects
        self.min_objects = min_objects
        self.feature_dim = feature_dim
        self.object_classes = [f"object {i}" for i in range(num_object_classes)]
        self.attribute_classes = [f"attribute {i}" for i in range(num_attribute_classes)]
        self.answers = [f"answer {i}" for i in range(num_answers)]
        self.pieces = [*_SPECIAL, *(f"word{i}" for i in range(vocab_size - len(_SPECIAL)))]
        self._objects = _zipf(num_object_classes)
        self._attributes = _zipf(num_attribute_classes)
        self._answers = _zipf(num_answers)
        self._words = _zipf(vocab_size - len(_SPECIAL))
        # Squares of uniform numbers: from 0 to 1.5 with mean 0.5, about that of pooled ReLUs.
        cells = np.arange(num_object_classes * feature_dim)
        prototypes = 1.5 * self._draw(cells, _Field.PROTOTYPE) ** 2
        self._prototypes = prototypes.astype(np.float32).reshape(-1, feature_dim)

    def __reduce__(self) -> tuple[Any, ...]:
        """Other processes are sent the sizes, and make it once."""
        return _made_here, (*self._arguments, self.min_objects)

    @property
    def inputs(self) -> dict[str, Any]:
        """All that images hang on, as JSON values."""
        inputs: dict[str, Any] = {"synthetic seed and sizes": list(self._arguments)}
        if self.min_objects is not None:
            inputs["synthetic least boxes"] = self.min_objects
        return inputs

    def groups(self, images: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """0 COCO alone, 1 COCO and VG, 2 VG alone."""
        return _pick(_cumulative(IMAGES), self._draw(images, _Field.GROUP))

    def image_ids(self, images: Int64[np.ndarray, " n"]) -> list[str]:
        """Names that look like those of COCO and VG."""
        groups = self.groups(images).tolist()
        return [_ID_FORMATS[g].format(i) for g, i in zip(groups, images.tolist(), strict=True)]

    def records(self, images: Int64[np.ndarray, " n"]) -> Iterator[RoiRecord]:
        """What a detector might say."""
        objects = images[:, None] * self.num_objects + np.arange(self.num_objects)  # (n, O)
        object_ids = _pick(self._objects, self._draw(objects, _Field.OBJECT))
        attribute_ids = _pick(self._attributes, self._draw(objects, _Field.ATTRIBUTE))
        # Boxes of confidence 0.2 and more are kept; attributes are less certain.
        object_scores = _float32(0.2 + 0.8 * self._draw(objects, _Field.OBJECT_SCORE))
        attribute_scores = _float32(self._draw(objects, _Field.ATTRIBUTE_SCORE) ** 2)
        axes = 2 * objects[..., None] + np.arange(2)  # (n, O, 2)
        extents = 0.05 + 0.95 * self._draw(axes, _Field.EXTENT) ** 2
        corners = (1 - extents) * self._draw(axes, _Field.CORNER)
        boxes = _float32(np.concatenate([corners, corners + extents], axis=-1))
        sizes = _SIZES[(self._draw(images, _Field.SIZE) * len(_SIZES)).astype(np.int64)]
        strengths = _float32(0.5 + self._draw(objects, _Field.STRENGTH))
        numbers = self.num_boxes(images).tolist()
        for row, (image_id, count) in enumerate(zip(self.image_ids(images), numbers, strict=True)):
            ids = object_ids[row, :count]
            yield RoiRecord(
                image_id=image_id,
                height=int(sizes[row, 0]),
                width=int(sizes[row, 1]),
                boxes=boxes[row, :count],
                roi_features=self._prototypes[ids] * strengths[row, :count, None],
                object_ids=ids,
                object_scores=object_scores[row, :count],
                attribute_ids=attribute_ids[row, :count],
                attribute_scores=attribute_scores[row, :count],
            )

    def num_boxes(self, images: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """How many boxes each has."""
        least = self.num_objects if self.min_objects is None else self.min_objects
        choices = self.num_objects - least + 1
        return least + (self._draw(images, _Field.BOXES) * choices).astype(np.int64)

    def counts(self, images: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, "n 5"]:
        """Sentences of every source."""
        keys = images[:, None] * len(SOURCES) + np.arange(len(SOURCES))
        draws = self._draw(keys, _Field.SENTENCES)
        groups = self.groups(images)
        found = np.zeros_like(keys)
        for group, source in np.argwhere(PAIRS > 0):
            mean = PAIRS[group, source] / IMAGES[group]
            rows = groups == group
            found[rows, source] = _above(LEAST[source], mean, draws[rows, source])
        return found

    def sentences(self, images: Int64[np.ndarray, " n"]) -> Iterator[Sentence]:
        """Image by image, and in each source by source."""
        counts = self.counts(images)  # (n, 5)
        sources = np.repeat(np.tile(np.arange(len(SOURCES)), len(images)), counts.ravel())  # (P,)
        rows = np.repeat(np.arange(len(images)), counts.sum(axis=1))  # (P,)
        places = _places(counts.sum(axis=1))  # (P,), within the image
        pairs = images[rows] * _MOST + places
        draws = self._draw(pairs, _Field.PIECES)
        lengths = np.zeros_like(pairs)
        for source, mean in enumerate(PIECES):
            of = sources == source
            lengths[of] = _above(SHORTEST[source], mean, draws[of]).clip(max=_LONGEST - 1)
        words = np.repeat(pairs * _LONGEST, lengths) + _places(lengths)
        drawn = _pick(self._words, self._draw(words, _Field.WORD)) + len(_SPECIAL)
        token_ids = drawn.tolist()
        answers = self._answers_of(pairs, sources)
        ids = self.image_ids(images)
        ends = np.cumsum(lengths).tolist()
        for pair, (row, source, end) in enumerate(
            zip(rows.tolist(), sources.tolist(), ends, strict=True)
        ):
            name = SOURCES[source]
            start = ends[pair - 1] if pair else 0
            yield Sentence(
                image_id=ids[row],
                uid=f"{ids[row]}_{name}_{places[pair]:03d}",
                source=name,
                token_ids=token_ids[start:end],
                answers=answers[pair],
            )

    def _answers_of(
        self, pairs: Int64[np.ndarray, " P"], sources: Int64[np.ndarray, " P"]
    ) -> list[dict[str, float]]:
        """Questions of VQA have one to three answers with soft scores, the others one."""
        first = _pick(self._answers, self._draw(pairs, _Field.ANSWER)).tolist()
        asked = (sources >= SOURCES.index("vqa")) & (self._draw(pairs, _Field.ANSWERED) < ANSWERED)
        doubt = np.where(sources == SOURCES.index("vqa"), self._draw(pairs, _Field.SCORE), 0.0)
        found: list[dict[str, float]] = []
        for answer, is_asked, unsure in zip(first, asked.tolist(), doubt.tolist(), strict=True):
            scores = (1.0,) if unsure < 0.5 else (1.0, 0.3) if unsure < 0.8 else (0.9, 0.6, 0.3)
            found.append(
                {self.answers[(answer + k) % len(self.answers)]: s for k, s in enumerate(scores)}
                if is_asked
                else {}
            )
        return found

    def _draw(self, ids: npt.NDArray[np.int64], field: _Field) -> npt.NDArray[np.float64]:
        return keyed.uniform(self.seed, 0, ids, keyed.Purpose.SYNTHETIC, int(field))


@lru_cache(maxsize=1)
def _made_here(
    seed: int,
    objects: int,
    features: int,
    classes: int,
    attributes: int,
    answers: int,
    pieces: int,
    least_objects: int | None,
) -> SyntheticImages:
    return SyntheticImages(
        seed,
        num_objects=objects,
        min_objects=least_objects,
        feature_dim=features,
        num_object_classes=classes,
        num_attribute_classes=attributes,
        num_answers=answers,
        vocab_size=pieces,
    )


@dataclass(frozen=True)
class SyntheticShard:
    """Images by their numbers."""

    made: SyntheticImages
    numbers: Int64[np.ndarray, " n"]

    def records(self) -> Iterator[RoiRecord]:
        """Made up one block at a time."""
        yield from self.made.records(self.numbers)

    def where(self, index: int) -> str:
        """Nowhere."""
        return ""


def prepare_synthetic(
    uri: str,
    made: SyntheticImages,
    *,
    num_images: int,
    feature_dtype: str = "float16",
    overwrite: bool = False,
    processes: int = 1,
    run_shards: Mapper | None = None,
    progress: bool = True,
) -> str:
    """Write images 0 to ``num_images`` - 1 as splits ``train`` and ``valid``.

    A build that was interrupted goes on. ``processes`` and ``run_shards`` are those of
    ``lxmert.prepare_lxmert``.

    Returns:
        The digest of the store's manifest.

    Raises:
        DataError: there are too few images for two splits.
        StoreError: the store exists, or cannot be written.
    """
    images = np.arange(num_images)
    of_coco = np.flatnonzero(made.groups(images) < 2)
    valid = of_coco[: max(1, round(num_images * VALID_SHARE))]
    splits = {"train": np.setdiff1d(images, valid), "valid": valid}
    if not all(map(len, splits.values())):
        raise DataError(f"{num_images} images are too few for splits train and valid; take more")
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "vocab.txt").write_text("\n".join(made.pieces) + "\n")
        load_tokenizer(scratch).save_pretrained(scratch)
        writer = StoreWriter(
            uri,
            num_objects=made.num_objects,
            min_objects=made.min_objects,
            feature_dim=made.feature_dim,
            object_classes=made.object_classes,
            attribute_classes=made.attribute_classes,
            answers=made.answers,
            tokenizer_dir=Path(scratch),
            extractor="synthetic",
            feature_dtype=feature_dtype,
            info={"dataset": "synthetic", "seed": made.seed},
            inputs={"images": num_images, **made.inputs},
            overwrite=overwrite,
        )
        announce(writer.notice, progress)
        with Pool(processes) as pool:
            for name, numbers in splits.items():
                split = writer.split(name)
                write_images(
                    split,
                    len(numbers),
                    partial(_shard_of, made, numbers),
                    run_shards or pool.map,
                    f"features of {name}",
                    progress,
                )
                with tqdm(
                    total=len(numbers),
                    desc=f"sentences of {name}",
                    unit="img",
                    disable=not progress,
                ) as bar:
                    split.close(_sentences(made, numbers, bar))
        return writer.finish()


def _shard_of(
    made: SyntheticImages, numbers: Int64[np.ndarray, " n"], places: slice
) -> SyntheticShard:
    return SyntheticShard(made, numbers[places])


def _sentences(
    made: SyntheticImages, numbers: Int64[np.ndarray, " n"], bar: Any
) -> Iterator[Sentence]:
    for block in _blocks(numbers):
        yield from made.sentences(block)
        bar.update(len(block))


def _blocks(numbers: Int64[np.ndarray, " n"]) -> Iterator[Int64[np.ndarray, " m"]]:
    for start in range(0, len(numbers), _BLOCK):
        yield numbers[start : start + _BLOCK]


def _places(counts: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " P"]:
    """0 .. count - 1 for every count, one after the other."""
    ends = np.cumsum(counts)
    return np.asarray(np.arange(ends[-1]) - np.repeat(ends - counts, counts), np.int64)


def _zipf(choices: int) -> Float64[np.ndarray, " choices"]:
    """The cumulative distribution of 0 .. choices - 1 whose weights are 1, 1/2, 1/3 and so on."""
    return _cumulative(1 / np.arange(1, choices + 1))


def _above(least: int, mean: float, draws: Float64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """``least`` and a Poisson number, ``mean`` in all (up to the 500th of its terms)."""
    terms = np.cumprod([1.0, *((mean - least) / np.arange(1, 500))])
    return _pick(_cumulative(terms), draws) + least


def _cumulative(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    sums: npt.NDArray[np.float64] = np.cumsum(weights)
    sums /= sums[-1]
    return sums


def _pick(
    cumulative: npt.NDArray[np.float64], draws: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Which choice each draw in [0, 1) falls into."""
    return np.asarray(np.searchsorted(cumulative, draws, side="right"), np.int64)


def _float32(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    return values.astype(np.float32)
