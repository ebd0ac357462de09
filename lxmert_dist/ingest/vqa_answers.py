"""What ten people answered to a question of VQA -> soft scores, as its evaluation counts them."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

VqaScores = Literal["leave-one-out", "thirds"]
"""How n equal answers of N are scored.

``leave-one-out``: the official accuracy of that answer, min(1, n/3) averaged over the N ways of
leaving one person out. Of ten people: 1 -> 0.3, 2 -> 0.6, 3 -> 0.9, more -> 1, which are the very
scores in LXMERT's published labels. ``thirds``: min(1, n/3) of all N.
"""

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_THOUSANDS = re.compile(r"\d,\d")
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


def normalise_vqa_answer(answer: str) -> str:
    """An answer as VQA's official evaluation compares it.

    Punctuation goes (in its place a blank, unless one is beside it or the answer has a number with
    thousands), lower case, number words up to ten as digits, no articles, contractions with their
    apostrophes. May leave nothing.
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    closed_up = _THOUSANDS.search(text) is not None
    bare = text
    for mark in _PUNCTUATION:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        bare = bare.replace(mark, "" if closed_up or beside_blank else " ")
    words = [_NUMBERS.get(word, word) for word in _PERIOD.sub("", bare).lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def soft_scores(answers: Sequence[str], scores: VqaScores) -> dict[str, float]:
    """The answers to one question, normalised and scored in (0, 1], in order of appearance.

    Args:
        answers: one a person, as they were given.
        scores: how they are counted.
    """
    people = len(answers)
    counts = Counter(map(normalise_vqa_answer, answers))
    counts.pop("", None)
    if scores == "thirds":
        return {answer: min(3, n) / 3 for answer, n in counts.items()}
    found = {
        # whole numbers up to the division: 0.3, 0.6 and 0.9 come out as they are written
        answer: ((people - n) * min(3, n) + n * min(3, n - 1)) / (3 * people)
        for answer, n in counts.items()
    }
    return {answer: score for answer, score in found.items() if score}
