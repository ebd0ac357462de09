"""How VQA's official evaluation spells an answer, and how it counts one against those of people."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from lxmert_dist.scoring.result import left_to_right

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
# ASCII digits: the official script is of Python 2, whose \d knows no others.
_PERIOD = re.compile(r"\.(?!\d)", re.ASCII)
_THOUSANDS = re.compile(r"\d,\d", re.ASCII)
_MOST_PERIODS = 32
"""So many are taken out: the official script passes re.UNICODE, which is 32, where a count goes."""
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
_NUMBERS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS.split())} | {"none": "0"}
_CONTRACTED = """\
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's they'd
they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"""
"""Words with all their apostrophes. Those that lack one of them get it back."""

_CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTED.split()
    for place, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # so it is in the official table


def tidy(answer: str) -> str:
    """An answer without line breaks, tabs, and blanks around it: done to every answer."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=1 << 16)  # most questions share their answers
def normalise_vqa_answer(answer: str) -> str:
    """An answer as VQA's official evaluation compares it.

    Punctuation goes (in its place a blank, unless one is beside it or the answer has a number with
    thousands), lower case, number words up to ten as digits, no articles, contractions with their
    apostrophes. May leave nothing. Letters are lowered as Python 3 does it: of "İ", and of "Σ" at
    the end of a word, Python 2 made others.
    """
    text = tidy(answer)
    closed_up = _THOUSANDS.search(text) is not None
    bare = text
    for mark in _PUNCTUATION:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        bare = bare.replace(mark, "" if closed_up or beside_blank else " ")
    bare = _PERIOD.sub("", bare, count=_MOST_PERIODS)
    words = [_NUMBERS.get(word, word) for word in bare.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(people: Sequence[Mapping[str, Any]], answer: str) -> float:
    """The official accuracy of one answer: min(1, n/3), averaged over leaving one person out.

    Two rules of the official script that its paper does not tell: where all people gave the same
    answer nothing is normalised, so that "Yes" is wrong if they said "yes"; and a person is left
    out together with all whose record is the same, as happens where records have no ``answer_id``.

    Args:
        people: a record a person, with ``answer`` and whatever else the annotations say.
        answer: what was predicted.

    Returns:
        In [0, 1]; with ten people and ``answer_id`` about 0, 0.3, 0.6, 0.9 or 1.
    """
    given = [tidy(person["answer"]) for person in people]
    predicted = tidy(answer)
    if len(set(given)) > 1:
        given = [normalise_vqa_answer(one) for one in given]
        predicted = normalise_vqa_answer(predicted)
    records = [{**person, "answer": one} for person, one in zip(people, given, strict=True)]
    agreeing = [record for record in records if record["answer"] == predicted]
    left_out = [min(1.0, sum(other != one for other in agreeing) / 3) for one in records]
    return left_to_right(left_out) / len(left_out)
