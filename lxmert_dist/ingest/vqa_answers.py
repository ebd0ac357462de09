"""What ten people answered to a question of VQA -> soft scores, as its evaluation counts them."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from lxmert_dist.scoring.vqa_answers import normalise_vqa_answer

VqaScores = Literal["leave-one-out", "thirds"]
"""How n equal answers of N are scored.

``leave-one-out``: the official accuracy of that answer, min(1, n/3) averaged over the N ways of
leaving one person out. Of ten people: 1 -> 0.3, 2 -> 0.6, 3 -> 0.9, more -> 1, which are the very
scores in LXMERT's published labels. ``thirds``: min(1, n/3) of all N.
"""


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
