"""What easy-VQA's annotations say about an image, and captions that say it in sentences.

easy-VQA has one shape an image and no captions. Every question with its answer states a fact
("is there not a blue shape?" "no": it is blue), and together they mostly fix colour and shape.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from lxmert_dist.errors import DataError

COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPES = ("circle", "rectangle", "triangle")
WORDINGS = (
    "a {colour} {shape}",
    "there is a {colour} {shape} in the image",
    "the {shape} is {colour}",
    "the image contains a {shape}",
    "the shape is {colour}",
)
_NEGATIONS = frozenset({"no", "not"})


@dataclass(frozen=True)
class Facts:
    """Colour and shape of an image's one object; None where the annotations leave it open."""

    colour: str | None
    shape: str | None


def derive_facts(annotations: Iterable[tuple[str, str]]) -> Facts:
    """Collect what an image's questions and answers say.

    A question that is no yes/no question presupposes the values that it names ("what color is
    the circle?": a circle). A value is also known when all others are excluded.

    Args:
        annotations: (question, answer) of one image.

    Raises:
        DataError: they contradict each other.
    """
    asserted: set[str] = set()
    denied: set[str] = set()
    for question, answer in annotations:
        words = set(question.lower().rstrip("?").split())
        named = words.intersection(COLOURS + SHAPES)
        if answer not in ("yes", "no"):
            asserted |= named | {answer}
        elif (answer == "yes") != bool(words & _NEGATIONS):
            asserted |= named
        else:
            denied |= named
    return Facts(colour=_settle(COLOURS, asserted, denied), shape=_settle(SHAPES, asserted, denied))


def write_captions(facts: Facts) -> list[str]:
    """Every wording of ``WORDINGS`` for an image of which all is known, else none.

    So a caption is true of a captioned image exactly if it is one of that image's own captions,
    which makes the ceiling of the matching task computable.
    """
    if facts.colour is None or facts.shape is None:
        return []
    return [wording.format(colour=facts.colour, shape=facts.shape) for wording in WORDINGS]


def _settle(values: tuple[str, ...], asserted: set[str], denied: set[str]) -> str | None:
    said = asserted.intersection(values)
    possible = [v for v in values if v not in denied and (v in said or not said)]
    if len(said) > 1 or not possible:
        raise DataError(
            f"the answers contradict each other: of {', '.join(values)} they assert "
            f"{sorted(said)} and deny {sorted(denied.intersection(values))}"
        )
    return possible[0] if len(possible) == 1 else None
