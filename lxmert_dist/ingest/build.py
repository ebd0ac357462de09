"""Splits of raw images and sentences -> a store, by way of a detector and a tokenizer."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lxmert_dist import keyed
from lxmert_dist.errors import DataError
from lxmert_dist.ingest.images import read_image
from lxmert_dist.ingest.source import RawSentence, RawSplit
from lxmert_dist.ingest.tokenizer import load_tokenizer
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
                pixels = [read_image(split.images[image_id]) for image_id in batch]
                for record in detector.detect(batch, pixels):
                    split_writer.append(record)
                bar.update(len(batch))
        split_writer.close(tokenise(split.sentences, tokenizer_dir))
    return writer.finish()


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


def tokenise(sentences: Iterable[RawSentence], tokenizer_dir: Path) -> Iterator[Sentence]:
    """Sentences as word pieces, in the order given, some thousands in memory at a time."""
    tokenizer = load_tokenizer(str(tokenizer_dir))
    source = iter(sentences)
    while batch := list(islice(source, _SENTENCE_BATCH)):
        texts = [sentence.text for sentence in batch]
        encoded = tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False)
        for raw, token_ids in zip(batch, encoded["input_ids"], strict=True):
            yield Sentence(raw.image_id, raw.uid, raw.source, token_ids, raw.answers)
