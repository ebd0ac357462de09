"""GQA's questions as published, such as ``train_balanced_questions.json``: an object by their ids.

``{"02930152": {"imageId": "2354786", "question": "Is the sky dark?", "answer": "no", …}, …}``. The
balanced files are what LXMERT is pretrained on; those without answers are read as sentences.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lxmert_dist.errors import CORRECT, DataError, came_before, holds_no
from lxmert_dist.ingest.lxmert_json import Item
from lxmert_dist.ingest.sentence_files import OneFile
from lxmert_dist.ingest.visual_genome import VgImages
from lxmert_dist.json_list import read_members

SOURCE = "gqa"


@dataclass(frozen=True)
class GqaQuestions(OneFile):
    """A file of questions; ``images`` knows which images of Visual Genome are COCO's."""

    images: VgImages

    def items(self, read: Callable[[int], object]) -> Iterator[Item]:
        """An item a question.

        Raises:
            DataError: the file is damaged or not as this module says, or an id comes twice; names
                the line.
        """
        seen: set[str] = set()
        for number, where, entry in read_members(self.path, read):
            if not isinstance(entry, dict):
                raise DataError(
                    f'{where}: expected {{"<question id>": {{"imageId": …, "question": …, '
                    '"answer": …}}, …}; name a file of GQA\'s questions'
                )
            if number in seen:
                raise DataError(came_before(where, f"question {number!r}"))
            seen.add(number)
            image, text = entry.get("imageId"), entry.get("question")
            answer = entry.get("answer")
            if not isinstance(image, str) or not image:
                raise DataError(
                    f"{where}: imageId of question {number!r} is {image!r}, "
                    f"expected an image's name in quotes; {CORRECT}"
                )
            if not isinstance(text, str):
                raise DataError(
                    f"{where}: question {number!r} has no text under 'question'; {CORRECT}"
                )
            if not isinstance(answer, str | None):
                raise DataError(
                    f"{where}: answer of question {number!r} is {answer!r}, expected text; "
                    f"{CORRECT}"
                )
            label = {answer: 1.0} if answer else {}
            names = self.images.other_names(image)
            yield Item(
                where, image, {SOURCE: [text]}, {SOURCE: [label]}, names, uids={SOURCE: [number]}
            )
        if not seen:
            raise DataError(holds_no(self.path, "questions"))
