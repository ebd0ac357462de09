"""The figures of GQA's official script, all but grounding, which is about attention.

Of balanced questions alone: accuracy, of all, of binary and of open questions, and by type, number
of reasoning steps and of words; validity and plausibility; consistency; and how far the answers are
distributed otherwise than the right ones.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lxmert_dist.errors import TOGETHER, DataError, came_before
from lxmert_dist.json_list import read_members
from lxmert_dist.scoring.predictions import Answers, check_complete
from lxmert_dist.scoring.result import ALL, Result, Samples, left_to_right

_EFFORTLESS = ("exist", "query: name", "choose name")
"""Operations that do not count as a step of reasoning."""
_COMMON = ("color", "material", "shape")
"""What may be answered where a question asks what two things have in common."""
_SEMANTIC = {
    "attr": "attribute",
    "cat": "category",
    "global": "scene",
    "obj": "object",
    "rel": "relation",
}
_OVERALL = ("accuracy", "binary", "open", "consistency", "validity", "plausibility")
_TYPES = ("structural type", "semantic type", "steps", "words")

_Histograms = dict[str, dict[str, int]]
"""By group of questions and answer."""


@dataclass
class _Balanced:
    """What is counted over the balanced questions that were answered."""

    overall: Samples = field(default_factory=Samples)
    by_type: Mapping[str, Samples] = field(
        default_factory=lambda: {name: Samples() for name in _TYPES}
    )
    gold: _Histograms = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    predicted: _Histograms = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    implied: list[tuple[str, list[str]]] = field(default_factory=list)
    """Of each that is right, the image, and the questions whose answers follow from it."""
    images: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """By question: its image, and whether it asks for what things have in common."""


def score_gqa(
    answers: Answers, questions: Path, choices: Path | None = None, *, partial: bool = False
) -> Result:
    """The official figures, as far as the files allow; the notes say what is left out.

    Consistency takes answers to all questions that follow from those that are right, most of which
    are in the file of all questions (``val_all_questions.json``). Validity and plausibility take
    ``choices``. Scores of one image form a cluster.

    Args:
        answers: predictions, by the question's id.
        questions: the published file, ``{"<id>": {"answer": …, "types": {…}, …}, …}``.
        choices: the published file, ``{"<id>": {"valid": […], "plausible": […]}, …}``.
        partial: score the balanced questions that were answered, and those alone.

    Raises:
        DataError: a file is not as above or they do not fit; names the file and the question.
    """
    balanced = _Balanced()
    asked: dict[str, bool] = {}
    right: dict[str, bool] = {}
    for uid, where, entry in read_members(questions):
        if uid in asked:
            raise DataError(came_before(where, f"question {uid!r}"))
        question = _Question(uid, where, entry)
        asked[uid] = question.is_balanced
        if uid in answers.by_uid:
            right[uid] = answers.by_uid[uid] == question.answer
            if question.is_balanced:
                _count(balanced, question, answers.by_uid[uid])
    check_complete(answers, asked, questions, partial)
    notes = []
    if choices is None:
        notes.append("validity and plausibility need the file of choices (--choices)")
    else:
        _add_choices(balanced, answers, choices)
    if (lacking := _add_consistency(balanced, right)) is not None:
        notes.append(lacking)
    overall = balanced.overall.figures(_percent)
    parts = {ALL: {name: overall[name] for name in _OVERALL if name in overall}}
    for name, samples in balanced.by_type.items():
        parts[name] = samples.figures(_percent, ordered=True)
    statistics = {}
    if balanced.gold:
        statistics["distribution"] = _chi_square(balanced.gold, balanced.predicted) / 100
        notes.append("distribution is a distance: lower is better")
    return Result("gqa", parts, statistics, notes)


class _Question:
    """An entry of the questions' file, checked."""

    def __init__(self, uid: str, where: str, entry: Any) -> None:
        self.uid = uid
        match entry:
            case {
                "imageId": str(image),
                "question": str(text),
                "answer": str(answer),
                "isBalanced": bool(is_balanced),
                "types": {
                    "structural": str(structural),
                    "semantic": str(semantic),
                    "detailed": str(detailed),
                },
                "semantic": [*steps],
                "entailed": [*entailed],
                "groups": {"global": str() | None as group},
            } if all(map(_is_step, steps)) and all(isinstance(one, str) for one in entailed):
                pass
            case _:
                raise DataError(
                    f"{where}: question {uid!r} lacks what it is scored by, or has it otherwise: "
                    "imageId, question, answer, isBalanced, types, semantic, entailed, groups; "
                    "name one of GQA's files with answers"
                )
        self.image, self.answer, self.group = image, answer, group
        self.is_balanced, self.is_open = is_balanced, structural == "query"
        self.asks_common = "Common" in detailed
        self.implied = [one for one in entailed if one != uid]
        named = (f"{step['operation']}: {step['argument']}" for step in steps)
        num_steps = sum(not any(word in name for word in _EFFORTLESS) for name in named)
        semantic = _SEMANTIC.get(semantic, semantic)
        self.types = (structural, semantic, str(num_steps), str(len(text.split())))


def _is_step(value: Any) -> bool:
    return isinstance(value, dict) and "operation" in value and "argument" in value


def _count(balanced: _Balanced, question: _Question, answer: str) -> None:
    score = float(answer == question.answer)
    balanced.overall.add("accuracy", score, question.image)
    balanced.overall.add("open" if question.is_open else "binary", score, question.image)
    for kind, name in zip(_TYPES, question.types, strict=True):
        balanced.by_type[kind].add(name, score, question.image)
    if question.group is not None:
        balanced.gold[question.group][question.answer] += 1
        balanced.predicted[question.group][answer] += 1
    if score and question.implied:
        balanced.implied.append((question.image, question.implied))
    balanced.images[question.uid] = (question.image, question.asks_common)


def _add_choices(balanced: _Balanced, answers: Answers, choices: Path) -> None:
    """Validity and plausibility; the choices' file may be of more questions."""
    waiting = dict(balanced.images)
    for uid, where, entry in read_members(choices):
        if uid not in waiting:
            continue
        match entry:
            case {"valid": [*valid], "plausible": [*plausible]}:
                image, asks_common = waiting.pop(uid)
            case _:
                raise DataError(
                    f"{where}: choices of question {uid!r} lack valid or plausible; "
                    "name GQA's file of choices"
                )
        for name, allowed in (("validity", valid), ("plausibility", plausible)):
            belongs = answers.by_uid[uid] in (_COMMON if asks_common else allowed)
            balanced.overall.add(name, float(belongs), image)
    if waiting:
        raise DataError(
            f"{choices}: has no choices for question {next(iter(waiting))}, and for "
            f"{len(waiting):,} in all; {TOGETHER}"
        )


def _add_consistency(balanced: _Balanced, right: Mapping[str, bool]) -> str | None:
    """Consistency, or why there is none."""
    if not balanced.implied:
        return "consistency needs a right answer from which another follows"
    lacking = {one for _, implied in balanced.implied for one in implied if one not in right}
    if lacking:
        return (
            "consistency needs answers to all questions that follow from right ones; "
            f"{min(lacking)} has none ({len(lacking):,} in all)"
        )
    for image, implied in balanced.implied:
        scores = [float(right[one]) for one in implied]
        balanced.overall.add("consistency", sum(scores) / len(scores), image)
    return None


def _chi_square(gold: _Histograms, predicted: _Histograms) -> float:
    """Over each group's right answers, (predicted - right)^2 / right; groups weigh by questions."""
    total, questions = 0.0, 0
    for group, counts in gold.items():
        found = predicted[group]
        score = left_to_right((found.get(answer, 0) - n) ** 2 / n for answer, n in counts.items())
        size = sum(counts.values())
        total += score * size
        questions += size
    return total / questions


def _percent(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores) * 100
