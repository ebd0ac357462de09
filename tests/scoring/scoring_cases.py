"""Questions, choices and predictions drawn at random, with all that the official rules look at."""

import random
from collections.abc import Iterable
from typing import Any

from lxmert_dist.scoring.vqa_answers import _CONTRACTED, _PUNCTUATION

_ODD = """\
couldn'tve hed've he'dve somebody'd let's she's Im Ive Id've a an the A The AN none Ten one Two zero
yes no Yes NO dog grey 1 3.5 1,000 12,5,3 10. .5 mr. e.g. <=5. <=. 1.5.2. x é naïve 日本 Ünï ٣,٤ .٣
² don’t 🙂 ẞ ﬁ '' " ... - ' \\ /"""  # noqa: RUF001
_WORDS = [
    *_CONTRACTED.split(),
    *_CONTRACTED.replace("'", "").split(),
    *_ODD.split(),
    *("." * 40, "\n", "\t", " ", "  ", "", "\u00a0", "\u3000", "\x1f", "\x85"),
]
_LETTERS = [*_PUNCTUATION, *".,.,'  \n\t0123456789abAtheénone"]


def text(draw: random.Random) -> str:
    """An answer that some rule is about, if not several."""
    if draw.random() < 0.4:
        return "".join(draw.choices(_LETTERS, k=draw.randint(0, 14)))
    blank = draw.choice(["", " ", " ", "-", ", ", "."])
    words = [*draw.choices(_WORDS, k=draw.randint(1, 4)), draw.choice([*_LETTERS, ""])]
    return blank.join(words)


def vqa(draw: random.Random, count: int) -> dict[str, Any]:
    """Annotations, and results for each."""
    annotations, results = [], []
    for number in range(count):
        pool = [text(draw) for _ in range(draw.randint(1, 4))]
        kind = draw.random()
        if kind < 0.3:
            pool = [draw.choice(["yes", "Yes", " yes\n", "no.", "The dog", "2"])]
        elif kind < 0.6:
            pool = [pool[0], f"{pool[0]}.", f" {pool[0].upper()}", f"the {pool[0]}"]
        people: list[dict[str, Any]] = [
            {"answer": draw.choice(pool), "answer_confidence": draw.choice(["yes", "maybe"])}
            for _ in range(10)
        ]
        if draw.random() < 0.7:
            people = [{**person, "answer_id": n} for n, person in enumerate(people, 1)]
        annotations.append(
            {
                "question_id": 7 * number,
                "image_id": number // 3,
                "question_type": draw.choice(["what is", "is the", "how many"]),
                "answer_type": draw.choice(["yes/no", "number", "other"]),
                "answers": people,
            }
        )
        answer = draw.choice([*pool, *pool, text(draw)])
        results.append({"question_id": 7 * number, "answer": answer})
    return {"annotations": {"annotations": annotations}, "results": results}


def gqa(draw: random.Random, count: int) -> dict[str, Any]:
    """Questions, choices, and predictions for each."""
    colours = ["red", "blue", "green", "color", "shape", "yes", "no"]
    uids = [f"{n:08d}" for n in range(count)]
    questions: dict[str, Any] = {}
    for uid in uids:
        operations = [
            draw.choice([("select", "dog (3)"), ("relate", "_,on,s (1)"), ("filter color", "red")])
            for _ in range(draw.randint(0, 3))
        ]
        operations.append(
            draw.choice(
                [("query", "name"), ("exist", "?"), ("choose name", "a|b"), ("query", "color")]
            )
        )
        questions[uid] = {
            "imageId": str(draw.randint(1, count // 4)),
            "question": draw.choice(["Is it red?", "What is this  on the left?", "Why"]),
            "answer": draw.choice(colours),
            "isBalanced": draw.random() < 0.7,
            "types": {
                "structural": draw.choice(["query", "verify", "choose", "logical", "compare"]),
                "semantic": draw.choice(["attr", "cat", "global", "obj", "rel"]),
                "detailed": draw.choice(["relS", "twoCommon", "existC"]),
            },
            "semantic": [
                {"operation": operation, "dependencies": [], "argument": argument}
                for operation, argument in operations
            ],
            "entailed": draw.sample(uids, draw.randint(0, 3)),
            "groups": {"global": draw.choice([None, "thing", "animal", "color"])},
        }
    return {
        "questions": questions,
        "choices": {
            uid: {"valid": draw.sample(colours, 4), "plausible": draw.sample(colours, 2)}
            for uid in uids
        },
        "predictions": [
            {
                "questionId": uid,
                "prediction": draw.choice([questions[uid]["answer"], draw.choice(colours)]),
            }
            for uid in uids
        ],
    }


def nlvr2(draw: random.Random, count: int) -> dict[str, Any]:
    """Labelled examples, and a prediction for each."""
    examples = [
        {"identifier": f"dev-{group}-{pair}-{sentence}", "label": draw.choice(["True", "False"])}
        for group in range(count)
        for sentence in range(2)
        for pair in range(draw.randint(1, 4))
    ]
    return {"examples": examples, "predictions": nlvr2_predictions(draw, examples)}


def nlvr2_predictions(draw: random.Random, examples: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Four of five are right; capitalised in many ways."""
    predictions = {}
    for example in examples:
        right = draw.random() < 0.8
        answer = str((example["label"] == "True") == right)
        predictions[example["identifier"]] = draw.choice([answer, answer.lower(), answer.upper()])
    return predictions
