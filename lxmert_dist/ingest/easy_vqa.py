"""The easy-VQA data set (PyPI ``easy-vqa``): one coloured shape an image, 13 answers."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lxmert_dist import keyed
from lxmert_dist.errors import ConfigError, DataError
from lxmert_dist.ingest.build import build_store
from lxmert_dist.ingest.captions import derive_facts, write_captions
from lxmert_dist.ingest.source import RawSentence, RawSplit
from lxmert_dist.ingest.tokenizer import save_tokenizer
from lxmert_dist.schema import Detector

QUESTIONS = "easy_vqa"
CAPTIONS = "captions"
"""Sources of sentences: the questions with their answers, and captions made from them."""


@dataclass(frozen=True)
class Part:
    """One half of the data set, ``train`` or ``test``: image paths by id, and its questions."""

    images: Mapping[str, Path]
    questions: Sequence[RawSentence]


def prepare_easy_vqa(
    uri: str,
    *,
    seed: int,
    detector: Detector,
    valid_fraction: float = 0.1,
    vocab_size: int = 200,
    tokenizer: str = "",
    data_dir: Path | None = None,
    limit: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> str:
    """Build the store: splits ``train`` and ``valid`` of the training images, and ``test``.

    The training images get captions beside their questions; the test images get none. A
    tokenizer that is trained here sees the sentences of ``train`` only.

    Args:
        uri: where the store will be.
        seed: of the split and of the order of images.
        detector: describes the images.
        valid_fraction: share of the training images that become ``valid``, in (0, 1).
        vocab_size: of the tokenizer that is trained on the corpus.
        tokenizer: directory or hub name of a tokenizer to use instead.
        data_dir: the data set's ``data`` directory; by default that of the installed package.
        limit: use only so many images (the lowest numbers) of each part; None for all.
        overwrite: replace a finished store.
        progress: show bars.

    Returns:
        The digest of the store's manifest.

    Raises:
        ConfigError: ``valid_fraction`` leaves a split without images.
        DataError: the data set is missing, unreadable or inconsistent.
        StoreError: the store exists, or cannot be written.
    """
    root = data_dir or package_data()
    answers = read_answers(root)
    train_part, test_part = (
        _first_images(read_part(root, name, answers), limit) for name in ("train", "test")
    )
    train_ids, valid_ids = _split_ids(list(train_part.images), valid_fraction, seed)
    splits = {
        "train": _with_captions(train_part, train_ids),
        "valid": _with_captions(train_part, valid_ids),
        "test": RawSplit(test_part.images, test_part.questions),
    }
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "tokenizer"
        corpus = (sentence.text for sentence in splits["train"].sentences)
        save_tokenizer(directory, tokenizer, corpus, vocab_size)
        return build_store(
            uri,
            splits,
            detector=detector,
            tokenizer_dir=directory,
            answers=answers,
            seed=seed,
            info={"dataset": "easy-vqa", "seed": seed, "valid_fraction": valid_fraction},
            overwrite=overwrite,
            progress=progress,
        )


def read_answers(root: Path) -> list[str]:
    """The answer table, sorted.

    Raises:
        DataError: it is missing or empty.
    """
    answers = sorted(_read_text(root / "answers.txt").split())
    if not answers:
        raise DataError(f"{root / 'answers.txt'}: no answers in it; reinstall easy-vqa")
    return answers


def read_part(root: Path, name: str, answers: Iterable[str]) -> Part:
    """Read ``train`` or ``test``. Images are called e.g. ``train/123``, in order of number.

    Args:
        root: the ``data`` directory.
        name: of the part.
        answers: the answer table.

    Raises:
        DataError: a file is missing or malformed, a question has no image, or an answer is not
            in the table.
    """
    paths = sorted(
        (p for p in (root / name / "images").glob("*.png") if p.stem.isdecimal()),
        key=lambda p: int(p.stem),
    )
    images = {f"{name}/{path.stem}": path for path in paths}
    if not images:
        raise DataError(f"{root / name / 'images'}: no images in it; reinstall easy-vqa")
    file = root / name / "questions.json"
    table = frozenset(answers)
    questions = []
    for index, (text, answer, number) in enumerate(_read_questions(file)):
        image_id = f"{name}/{number}"
        if image_id not in images:
            raise DataError(
                f"{file}: question {index} ({text!r}) has no image {image_id}; reinstall easy-vqa"
            )
        if answer not in table:
            raise DataError(
                f"{file}: question {index} ({text!r}) has the answer {answer!r}, "
                f"which is not in {root / 'answers.txt'}; reinstall easy-vqa"
            )
        uid = f"{QUESTIONS}/{name}/{index}"
        questions.append(RawSentence(image_id, uid, QUESTIONS, text, {answer: 1.0}))
    return Part(images, questions)


def _with_captions(part: Part, image_ids: Iterable[str]) -> RawSplit:
    """The chosen images, their questions, and the captions that these questions allow."""
    images = {image_id: part.images[image_id] for image_id in image_ids}
    questions = [q for q in part.questions if q.image_id in images]
    said: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for question in questions:
        said[question.image_id] += [(question.text, answer) for answer in question.answers]
    captions = []
    for image_id, annotations in said.items():
        try:
            facts = derive_facts(annotations)
        except DataError as error:
            raise DataError(f"image {image_id}: {error}; reinstall easy-vqa") from error
        captions += [
            RawSentence(image_id, f"{CAPTIONS}/{image_id}/{index}", CAPTIONS, text)
            for index, text in enumerate(write_captions(facts))
        ]
    return RawSplit(images, [*questions, *captions])


def _split_ids(
    image_ids: Sequence[str], valid_fraction: float, seed: int
) -> tuple[list[str], list[str]]:
    num_valid = round(valid_fraction * len(image_ids))
    if not 0 < num_valid < len(image_ids):
        raise ConfigError(
            f"valid_fraction={valid_fraction} of {len(image_ids)} images leaves a split empty; "
            "choose a share strictly between 0 and 1, or more images"
        )
    order = keyed.permutation(len(image_ids), seed, 0, keyed.Purpose.SPLIT)
    chosen = [image_ids[i] for i in order]
    return sorted(chosen[num_valid:]), sorted(chosen[:num_valid])


def _first_images(part: Part, limit: int | None) -> Part:
    if limit is None:
        return part
    images = dict(list(part.images.items())[:limit])
    return Part(images, [q for q in part.questions if q.image_id in images])


def package_data() -> Path:
    """The installed package's ``data`` directory.

    Raises:
        DataError: it is not installed.
    """
    spec = find_spec("easy_vqa")
    if spec is None or spec.origin is None:
        raise DataError("the data set easy-vqa is not installed; pip install 'lxmert_dist[detect]'")
    return Path(spec.origin).parent / "data"


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: unreadable ({error}); reinstall easy-vqa") from error


def _read_questions(file: Path) -> list[tuple[str, str, int]]:
    try:
        entries = json.loads(_read_text(file))
    except json.JSONDecodeError as error:
        raise DataError(f"{file}: not JSON ({error}); reinstall easy-vqa") from error
    if not isinstance(entries, list):
        raise DataError(
            f"{file}: expected a list of questions, got {type(entries).__name__}; "
            "reinstall easy-vqa"
        )
    questions = []
    for index, entry in enumerate(entries):
        match entry:
            case [str(text), str(answer), int(number)]:
                questions.append((text, answer, number))
            case _:
                raise DataError(
                    f"{file}: entry {index} is not [question, answer, image number]; "
                    "reinstall easy-vqa"
                )
    return questions
