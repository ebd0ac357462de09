"""A store that is written in a blink: random features, a made-up language of nonsense words."""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lxmert_dist.schema import RoiRecord, Sentence
from lxmert_dist.store import StoreWriter

WORDS = [a + b for a, b in itertools.product("bdfgklmnprst", "aeiou")]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
OBJECT_CLASSES = [f"object {i}" for i in range(12)]
ATTRIBUTE_CLASSES = [f"attribute {i}" for i in range(7)]
ANSWERS = ["no", "red", "two", "yes"]
SOURCES = ("captions", "questions")


def make_tokenizer(directory: Path) -> Path:
    """Write a WordPiece tokenizer of ``len(SPECIAL) + len(WORDS)`` tokens."""
    vocabulary = {word: i for i, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **dict(zip(names, SPECIAL, strict=True))
    )
    directory.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(str(directory))
    (directory / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    return directory


def make_record(rng: np.random.Generator, image_id: str, objects: int, width: int) -> RoiRecord:
    """An image whose every field is random and valid."""
    corners = np.sort(rng.random((objects, 2, 2)), axis=1)
    return RoiRecord(
        image_id=image_id,
        height=int(rng.integers(32, 640)),
        width=int(rng.integers(32, 640)),
        boxes=corners.reshape(objects, 4).astype(np.float32),
        roi_features=rng.standard_normal((objects, width)).astype(np.float32),
        object_ids=rng.integers(0, len(OBJECT_CLASSES), objects),
        object_scores=rng.random(objects).astype(np.float32),
        attribute_ids=rng.integers(0, len(ATTRIBUTE_CLASSES), objects),
        attribute_scores=rng.random(objects).astype(np.float32),
    )


def make_sentences(rng: np.random.Generator, image_ids: list[str], mean: int) -> Iterator[Sentence]:
    """1 to ``2 * mean - 1`` sentences an image, 1 to 12 tokens each; half of them questions,
    of which two in three have one or two answers.
    """
    for image_id in image_ids:
        for k in range(int(rng.integers(1, 2 * mean))):
            source = SOURCES[int(rng.integers(2))]
            answers = {}
            if source == "questions" and rng.random() < 2 / 3:
                chosen = rng.choice(len(ANSWERS), int(rng.integers(1, 3)), replace=False)
                answers = {ANSWERS[a]: float(rng.choice([0.3, 0.6, 1.0])) for a in chosen}
            length = int(rng.integers(1, 13))
            token_ids = rng.integers(len(SPECIAL), len(SPECIAL) + len(WORDS), length)
            yield Sentence(image_id, f"{image_id}/{k}", source, token_ids.tolist(), answers)


def make_tiny_store(
    uri: str,
    *,
    images: int = 200,
    seed: int = 0,
    objects: int = 4,
    min_objects: int | None = None,
    feature_dim: int = 16,
    images_per_shard: int = 16,
    sentences: int = 6,
    feature_dtype: str = "float16",
    overwrite: bool = False,
) -> None:
    """Write a store with splits ``train``, ``valid`` and ``test`` of 8:1:1 of the images.

    With ``min_objects`` an image has from as many boxes up to ``objects``.
    """
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as directory:
        writer = StoreWriter(
            uri,
            num_objects=objects,
            min_objects=min_objects,
            feature_dim=feature_dim,
            object_classes=OBJECT_CLASSES,
            attribute_classes=ATTRIBUTE_CLASSES,
            answers=ANSWERS,
            tokenizer_dir=make_tokenizer(Path(directory)),
            extractor="random numbers",
            images_per_shard=images_per_shard,
            feature_dtype=feature_dtype,
            info={"seed": seed},
            overwrite=overwrite,
        )
        held_out = max(1, images // 10)
        sizes = {"train": images - 2 * held_out, "valid": held_out, "test": held_out}
        for name, size in sizes.items():
            split = writer.split(name)
            image_ids = [f"{name}/{i}" for i in range(size)]
            for image_id in image_ids:
                boxes = objects
                if min_objects is not None:
                    boxes = int(rng.integers(min_objects, objects + 1))
                split.append(make_record(rng, image_id, boxes, feature_dim))
            split.close(make_sentences(rng, image_ids, sentences))
        writer.finish()
