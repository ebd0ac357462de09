"""Splits of raw images and sentences -> a store, by way of a detector and a tokenizer."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt16
from tqdm.auto import tqdm

from lxmert_dist import keyed
from lxmert_dist.errors import DataError
from lxmert_dist.ingest.pool import Mapper
from lxmert_dist.ingest.source import RawSentence, RawSplit
from lxmert_dist.ingest.tokenizer import fast_tokenizer, load_tokenizer
from lxmert_dist.opening import open_image
from lxmert_dist.schema import Detector, Sentence
from lxmert_dist.store import StoreWriter

_SENTENCE_BATCH = 10_000


def build_store(
    uri: str,
    splits: Mapping[str, RawSplit],
    *,
    detector: Detector,
    tokenizer_dir: Path,
    answers: Sequence[str],
    seed: int,
    batch_size: int = 32,
    images_per_shard: int = 64,
    info: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> str:
    """Write a store, images in an order drawn from ``seed``.

    Args:
        uri: where the store will be.
        splits: by name.
        detector: describes the images.
        tokenizer_dir: directory of a saved tokenizer.
        answers: the answer table.
        seed: of the order of images.
        batch_size: images that the detector gets at once.
        images_per_shard: images in one object of the store.
        info: what the manifest should remember of the data set.
        overwrite: replace a finished store.
        progress: show bars with rate and time left on stderr.

    Returns:
        The digest of the store's manifest.

    Raises:
        DataError: an image is unreadable, or a sentence is empty, has no image, or an answer that
            the table lacks.
        StoreError: the store exists, or cannot be written.
    """
    _check_sentences(splits, frozenset(answers))
    writer = StoreWriter(
        uri,
        num_objects=detector.num_objects,
        min_objects=detector.min_objects,
        feature_dim=detector.feature_dim,
        object_classes=detector.object_classes,
        attribute_classes=detector.attribute_classes,
        answers=answers,
        tokenizer_dir=tokenizer_dir,
        extractor=detector.name,
        images_per_shard=images_per_shard,
        info=info,
        overwrite=overwrite,
    )
    for name, split in splits.items():
        split_writer = writer.split(name)
        ids = sorted(split.images)
        order = keyed.permutation(len(ids), seed, 0, keyed.Purpose.STORE_ORDER)
        with tqdm(
            total=len(ids), desc=f"images of {name}", unit="img", disable=not progress
        ) as bar:
            for start in range(0, len(ids), batch_size):
                batch = [ids[i] for i in order[start : start + batch_size]]
                pixels = [open_image(split.images[name], _name(split, name)) for name in batch]
                for record in detector.detect(batch, pixels):
                    split_writer.append(record)
                bar.update(len(batch))
        split_writer.close(tokenise(split.sentences, tokenizer_dir))
    return writer.finish()


def _name(split: RawSplit, image_id: str) -> str:
    """What an error calls an image."""
    source = split.images[image_id]
    return str(source) if isinstance(source, Path) else f"image {image_id}"


def _check_sentences(splits: Mapping[str, RawSplit], answers: frozenset[str]) -> None:
    """Find what the store would refuse, before any image is looked at."""
    for split in splits.values():
        for sentence in split.sentences:
            if sentence.image_id not in split.images:
                raise DataError(
                    f"{sentence.uid}: its image {sentence.image_id} is missing; "
                    "add the image or drop the sentence"
                )
            unknown = sorted(set(sentence.answers) - answers)
            if unknown:
                raise DataError(
                    f"{sentence.uid}: answer {unknown[0]!r} is not in the answer table; "
                    "add it to the table or drop the sentence"
                )


def tokenise(
    sentences: Iterable[RawSentence], tokenizer_dir: Path, run: Mapper = map
) -> Iterator[Sentence]:
    """Sentences as word pieces, in the order given, some thousands in memory at a time.

    Args:
        sentences: as text.
        tokenizer_dir: a saved tokenizer.
        run: where they are tokenised.
    """
    source = iter(sentences)
    waiting: deque[list[RawSentence]] = deque()

    def texts() -> Iterator[tuple[str, list[str]]]:
        while batch := list(islice(source, _SENTENCE_BATCH)):
            waiting.append(batch)
            yield str(tokenizer_dir), [sentence.text for sentence in batch]

    for token_ids, ends in run(_word_pieces, texts()):
        starts = [0, *ends[:-1]]
        for raw, start, end in zip(waiting.popleft(), starts, ends, strict=True):
            yield Sentence(raw.image_id, raw.uid, raw.source, token_ids[start:end], raw.answers)


def _word_pieces(work: tuple[str, list[str]]) -> tuple[UInt16[np.ndarray, " W"], list[int]]:
    """The word pieces of all texts, one after the other, and where those of each text end."""
    directory, texts = work
    encoded = _tokenizer(directory).encode_batch_fast(texts, add_special_tokens=False)
    pieces = [encoding.ids for encoding in encoded]
    return np.array([*chain.from_iterable(pieces)], np.uint16), [*accumulate(map(len, pieces))]


@lru_cache(maxsize=1)
def _tokenizer(directory: str) -> Any:
    return fast_tokenizer(load_tokenizer(directory))
