r"""People's own sentences: JSON Lines, an object a sentence.

``{"image_id": "holiday/1", "sentence": "Is it raining?", "source": "mine", "answers": {"no": 1}}``

- ``image_id``: as the features call it;
- ``sentence``: a caption or a question;
- ``source``: any name, by which sentences are counted and weighted (by default ``own``);
- ``answers``: of a question, answer -> score in (0, 1];
- ``uid``: by which predictions call the sentence; by default made of image, source and place.

Empty lines are skipped. With features as ``feature_folder`` says, this makes a store of two images:

    import json, numpy as np
    for name in ("a", "b"):
        np.savez(
            f"features/{name}.npz",
            roi_features=np.random.rand(4, 16).astype("float32"),
            boxes=np.float32([[0, 0, 320, 240]] * 4),
            image_size=[240, 320],
        )
    with open("mine.jsonl", "w") as file:
        for name, text in (("a", "a red bus"), ("b", "two dogs on a beach")):
            print(json.dumps({"image_id": name, "sentence": text}), file=file)

    python launch/prepare.py own --sentences mine.jsonl --features features --out data/mine \
        --boxes 4 --feature-dim 16
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lxmert_dist.errors import DataError
from lxmert_dist.ingest.lxmert_json import Item, check_label
from lxmert_dist.ingest.sentence_files import OneFile
from lxmert_dist.json_list import read_lines

SOURCE = "own"
_KEYS = frozenset({"image_id", "sentence", "source", "answers", "uid"})


class OwnSentences(OneFile):
    """A file of sentences."""

    def items(self, read: Callable[[int], object]) -> Iterator[Item]:
        """An item a sentence.

        Raises:
            DataError: a line is not as this module says; names it.
        """
        for where, entry in read_lines(self.path, read):
            match entry:
                case {"image_id": str(image), "sentence": str(text)} if image:
                    yield self._item(where, image, text, entry)
                case _:
                    raise DataError(
                        f'{where}: expected {{"image_id": "…", "sentence": "…"}}, found '
                        f"{json.dumps(entry)[:80]}; correct the line"
                    )

    def _item(self, where: str, image: str, text: str, entry: dict[str, Any]) -> Item:
        for key in sorted(entry.keys() - _KEYS):
            raise DataError(
                f"{where}: unknown key {key!r}, a line has {', '.join(sorted(_KEYS))}; "
                "correct the line"
            )
        source, answers = entry.get("source", SOURCE), entry.get("answers", {})
        if not isinstance(source, str) or not source:
            raise DataError(f"{where}: source is {source!r}, expected a name; correct the line")
        if not isinstance(answers, dict):
            raise DataError(
                f"{where}: answers are {answers!r}, expected {{answer: score}}; correct the line"
            )
        check_label(answers, where)
        labels = {source: [answers]} if answers else {}
        uid = entry.get("uid")
        if not isinstance(uid, str | None) or uid == "":
            raise DataError(f"{where}: uid is {uid!r}, expected text; correct the line")
        return Item(
            where, image, {source: [text]}, labels, uids={} if uid is None else {source: [uid]}
        )


def collect_answers(files: Iterable[OwnSentences], normalise: Callable[[str], str]) -> list[str]:
    """Every answer of the files, normalised, sorted: a table where none is given.

    Raises:
        DataError: as :meth:`OwnSentences.items`.
    """
    found: set[str] = set()
    for file in files:
        for item in file.items(lambda _: None):
            for labels in item.labels.values():
                found.update(normalise(answer) for label in labels for answer in label)
    return sorted(found - {""})
