"""NLVR v1 -> a store: sentences by people, each true or false of an image.

With them, if asked for, statements and questions made from what the training images show, to
pretrain on.
"""

import tempfile
from collections.abc import Collection
from pathlib import Path

from lxmert_dist import keyed
from lxmert_dist.errors import ConfigError
from lxmert_dist.ingest.build import build_store
from lxmert_dist.ingest.nlvr1 import SHAPES, read_nlvr1, read_nlvr1_sentences
from lxmert_dist.ingest.nlvr1_statements import (
    ANSWERS,
    COLOUR_NAMES,
    TRUTHS,
    made_sentences,
)
from lxmert_dist.ingest.source import RawSplit
from lxmert_dist.ingest.tokenizer import save_tokenizer
from lxmert_dist.schema import Detector


def prepare_nlvr1(
    uri: str,
    *,
    seed: int,
    detector: Detector,
    data_dir: Path,
    train_part: str = "hidden",
    test_part: str = "dev",
    valid_fraction: float = 0.1,
    num_statements: int = 0,
    vocab_size: int = 400,
    tokenizer: str = "",
    overwrite: bool = False,
    progress: bool = True,
) -> str:
    """Build the store: splits ``train`` and ``valid`` of one part, and ``test`` of another.

    A sentence with all its images is in one split.

    Args:
        uri: where the store will be.
        seed: of the split and of the order of images.
        detector: describes the images.
        data_dir: where the parts are, as ``PART.zip`` or ``PART/``.
        train_part: which becomes ``train`` and ``valid``.
        test_part: which becomes ``test``.
        valid_fraction: share of the training sentences that become ``valid``, in (0, 1).
        num_statements: how many statements, and how many questions, are made about images of
            ``train``, >= 0; each is about eight images, and either a source of its own.
        vocab_size: of the tokenizer that is trained on the sentences of ``train``.
        tokenizer: directory or hub name of a tokenizer to use instead.
        overwrite: replace a finished store.
        progress: show bars.

    Returns:
        The digest of the store's manifest.

    Raises:
        ConfigError: ``valid_fraction`` leaves a split without sentences, or ``num_statements``
            is negative.
        DataError: a file is missing, damaged, or not as published; names it.
        StoreError: the store exists, or cannot be written.
    """
    if num_statements < 0:
        raise ConfigError(f"--statements {num_statements} must be 0 or more; 0 makes none")
    known = read_nlvr1_sentences(data_dir, train_part)
    texts = sorted({sentence.text for sentence in known.sentences})
    number = round(valid_fraction * len(texts))
    if not 0 < number < len(texts):
        raise ConfigError(
            f"valid_fraction={valid_fraction} of {len(texts)} sentences leaves a split empty; "
            "choose a share strictly between 0 and 1"
        )
    order = keyed.permutation(len(texts), seed, 0, keyed.Purpose.SPLIT)
    held_out = {texts[i] for i in order[:number]}
    splits = {
        "train": _of_texts(known, {*texts} - held_out),
        "valid": _of_texts(known, held_out),
        "test": read_nlvr1_sentences(data_dir, test_part),
    }
    if num_statements:
        splits["train"] = _with_statements(
            splits["train"], data_dir, train_part, seed, num_statements
        )
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "tokenizer"
        corpus = sorted({sentence.text for sentence in splits["train"].sentences})
        save_tokenizer(directory, tokenizer, corpus, vocab_size)
        return build_store(
            uri,
            splits,
            detector=detector,
            tokenizer_dir=directory,
            answers=ANSWERS if num_statements else TRUTHS,
            seed=seed,
            info={
                "dataset": "NLVR v1",
                "seed": seed,
                "parts": [train_part, test_part],
                "statements": num_statements,
            },
            overwrite=overwrite,
            progress=progress,
        )


def _of_texts(split: RawSplit, texts: Collection[str]) -> RawSplit:
    sentences = [sentence for sentence in split.sentences if sentence.text in texts]
    return RawSplit({s.image_id: split.images[s.image_id] for s in sentences}, sentences)


def _with_statements(
    train: RawSplit, data_dir: Path, part: str, seed: int, number: int
) -> RawSplit:
    labelled = read_nlvr1(data_dir, part, SHAPES, COLOUR_NAMES)
    known = [image for image in labelled if image.image_id in train.images]
    made = made_sentences(known, seed=seed, number=number)
    return RawSplit(train.images, [*train.sentences, *made])
