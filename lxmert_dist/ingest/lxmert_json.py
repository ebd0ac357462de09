"""The sentences of LXMERT's pretraining: a JSON list, an element an image.

An element is ``{"img_id": …, "sentf": {category: [sentence, …]}, "labelf": {category: [{answer:
score, …}, …]}}``: the labels stand in the order of the sentences of their category, and only
questions have them.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lxmert_dist.errors import CORRECT, DataError
from lxmert_dist.ingest.source import RawSentence
from lxmert_dist.json_list import read_objects

Label = Mapping[str, int | float]


@dataclass(frozen=True)
class Item:
    """What a file says about one image. ``where`` is its "file:line".

    ``labels`` are as many as the sentences of the category, where it has any. ``other_names`` are
    what the image may be called among the features; they go before ``image_id``. ``pair`` are the
    two images that the sentences are about, instead of ``image_id``. ``uids`` are the ids that the
    file gives to the sentences of a category, if it does.
    """

    where: str
    image_id: str
    sentences: Mapping[str, Sequence[str]]
    labels: Mapping[str, Sequence[Label]]
    other_names: Sequence[str] = ()
    pair: Sequence[str] = ()
    uids: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def num_sentences(self) -> int:
        """Over all categories."""
        return sum(map(len, self.sentences.values()))


@dataclass
class AnswerTally:
    """How many answers there were, and how many the table does not know."""

    answers: int = 0
    outside: int = 0
    merged: int = 0
    """Those that equal another of the same question, once normalised; the last score counts."""
    questions: int = 0
    unanswered: int = 0
    """Questions that are left without an answer; they stay, as sentences."""


@dataclass(frozen=True)
class AnswerTable:
    """The answers that a model knows, and how raw ones are spelled to be looked up."""

    answers: Sequence[str]
    normalise: Callable[[str], str]
    tally: AnswerTally = field(default_factory=AnswerTally)
    _known: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_known", frozenset(self.answers))

    def look_up(self, label: Label) -> dict[str, float]:
        """The answers of one question that are in the table; counts the others."""
        found: dict[str, float] = {}
        tally = self.tally
        for raw, score in label.items():
            answer = self.normalise(raw)
            if answer not in self._known:
                tally.outside += 1
            elif answer in found:
                tally.merged += 1
            if answer in self._known:
                found[answer] = float(score)
        tally.answers += len(label)
        tally.questions += 1
        tally.unanswered += not found
        return found


def read_items(path: Path, read: Callable[[int], object] = lambda _: None) -> Iterator[Item]:
    """The elements of a file; see ``json_list.read_objects`` for ``read``.

    Raises:
        DataError: the file is damaged, or an element is not as this module says; names the line.
    """
    for where, element in read_objects(path, read):
        image_id, labels = element.get("img_id"), element.get("labelf", {})
        sentences: Any = element.get("sentf")
        if not isinstance(image_id, str) or not image_id:
            raise DataError(
                f"{where}: img_id is {image_id!r}, expected the name of an image; {CORRECT}"
            )
        if not _is_lists_of(sentences, str):
            raise DataError(
                f"{where}: sentf of image {image_id} is no {{category: [sentence]}}; {CORRECT}"
            )
        if not _is_lists_of(labels, dict):
            raise DataError(
                f"{where}: labelf of image {image_id} is no {{category: [{{answer: score}}]}}; "
                f"{CORRECT}"
            )
        for category, answers in labels.items():
            asked = len(sentences.get(category, ()))
            if len(answers) != asked:
                raise DataError(
                    f"{where}: image {image_id} has {asked} sentences of {category}, but "
                    f"{len(answers)} labels; {CORRECT}"
                )
            for label in answers:
                check_label(label, f"{where}: a label of {category} of image {image_id}")
        yield Item(where, image_id, sentences, labels)


def raw_sentences(item: Item, table: AnswerTable, taken: Counter[str]) -> Iterator[RawSentence]:
    """The sentences of an item, their answers looked up.

    Args:
        item: the item.
        table: of answers.
        taken: how many uids of every ``<image>_<category>`` there are already, so that an image
            may come in several items; it is brought up to date.
    """
    for category, texts in item.sentences.items():
        labels = item.labels.get(category)
        uids = item.uids.get(category)
        name = f"{item.image_id}_{category}"
        for index, text in enumerate(texts):
            answers = table.look_up(labels[index]) if labels else {}
            uid = uids[index] if uids else f"{name}_{taken[name] + index:03d}"
            yield RawSentence(item.image_id, uid, category, text, answers)
        taken[name] += len(texts)


def _is_lists_of(value: Any, kind: type) -> bool:
    return isinstance(value, dict) and all(
        isinstance(entries, list) and all(isinstance(entry, kind) for entry in entries)
        for entries in value.values()
    )


def check_label(label: Mapping[str, Any], where: str) -> None:
    """Check the scores of one question.

    Raises:
        DataError: one is outside (0, 1]; names ``where`` and the answer.
    """
    for answer, score in label.items():
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 < score <= 1:
            raise DataError(
                f"{where}: score {score!r} of answer {answer!r} is outside (0, 1]; {CORRECT}"
            )
