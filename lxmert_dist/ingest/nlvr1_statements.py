"""Statements and questions about images of NLVR v1, made from what its files say is drawn.

People's sentences about the training part are few (256 different ones in *hidden*), its images are
many. These are for pretraining: they speak of the training images alone, in words and turns that
people's sentences about these have. A statement is true or false; it is composed of how many boxes
(or towers) there are, with how many things of which colour and shape, and where. A question asks
for such a number. What a statement says must be held against what there is before either tells
anything; a question's answer is in the image alone, so that it is learned first.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lxmert_dist import keyed
from lxmert_dist.ingest.nlvr1 import COLOURS, GAP, ORDERS, SHAPES, SQUARE
from lxmert_dist.ingest.source import RawSentence
from lxmert_dist.schema import LabelledImage

STATEMENTS = "statements"
QUESTIONS = "questions"
"""The sources of what is made."""
COLOUR_NAMES = tuple(COLOURS.values())
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven")
TRUTHS = ("false", "true")
ANSWERS = (*TRUTHS, *map(str, range(1 + len(_NUMBERS))))
"""Of statements, and of questions: what people count goes up to seven."""


@dataclass(frozen=True)
class Thing:
    """What is drawn in a box: corners in pixels of that box, 0 to 100."""

    left: float
    top: float
    right: float
    bottom: float
    shape: str
    colour: str

    @property
    def touched(self) -> set[str]:
        """The sides of the box that it touches."""
        sides = {"left": self.left, "top": self.top}
        sides |= {"right": SQUARE - self.right, "bottom": SQUARE - self.bottom}
        return {side for side, gap in sides.items() if gap <= 0}


Box = tuple[Thing, ...]
"""Things from the bottom to the top."""
Scene = tuple[Box, Box, Box]


@dataclass(frozen=True)
class _Phrase:
    """Some things, in the singular and the plural, and which things these are."""

    one: str
    many: str
    holds: Callable[[Thing], bool]

    def number(self, things: Iterable[Thing]) -> int:
        return sum(map(self.holds, things))


_PLACES: dict[str, Callable[[set[str]], bool]] = {
    " touching the edge": lambda sides: bool(sides),
    " touching the wall": lambda sides: bool(sides),
    " not touching the edge": lambda sides: not sides,
    " touching the bottom of a box": lambda sides: "bottom" in sides,
    " touching the base": lambda sides: "bottom" in sides,
    " touching the corner": lambda sides: len(sides) > 1,
}
_ENDS = {"base": 0, "bottom": 0, "top": -1}
_KINDS_OF_COLOURS = {"only one color": 1, "two different colors": 2, "all three colors": 3}


class Dice:
    """Draws for a statement, one after the other, each keyed by its number."""

    def __init__(self, seed: int, statement: int) -> None:
        self._seed, self._statement, self._k = seed, statement, 0

    def below(self, options: int) -> int:
        """A number in [0, options)."""
        purpose, self._k = keyed.Purpose.STATEMENT, self._k + 1
        return int(keyed.integers(self._seed, 0, self._statement, purpose, self._k, below=options))

    def choose(self, options: Sequence[str]) -> str:
        """One of the options."""
        return options[self.below(len(options))]


def made_sentences(
    images: Sequence[LabelledImage], *, seed: int, number: int, each: int = 8
) -> Iterator[RawSentence]:
    """Statements and questions, each about images of which different answers are right.

    The answers take turns, so that words alone tell nothing of whether a statement is true, and
    little of a number.

    Args:
        images: of ``read_nlvr1`` with ``SHAPES`` and ``COLOUR_NAMES``: of a sentence six, in order.
        seed: of the draws.
        number: how many statements, and how many questions, are drawn; one with the same answer in
            all images is left out.
        each: of how many images one is at most; even.

    Returns:
        Sentences of source ``STATEMENTS`` with the answer ``true`` or ``false``, and of source
        ``QUESTIONS`` with a number.
    """
    scenes = [scene_of(image) for image in images[::ORDERS]]
    kinds = [has_towers(scene) for scene in scenes]
    for index in range(2 * number):
        source, draw = (STATEMENTS, draw_statement) if index % 2 else (QUESTIONS, draw_question)
        dice = Dice(seed, index)
        towers = kinds[dice.below(len(kinds))]
        text, answer_of = draw(towers, dice)
        places: dict[str, list[int]] = {}
        for place, scene in enumerate(scenes):
            if kinds[place] is towers and (answer := str(answer_of(scene)).lower()) in ANSWERS:
                places.setdefault(answer, []).append(place)
        for answer, place in _alternating(places, each, dice):
            image_id = images[place * ORDERS + dice.below(ORDERS)].image_id
            uid = f"{source}/{index}/{image_id}"
            yield RawSentence(image_id, uid, source, text, {answer: 1.0})


def _alternating(places: dict[str, list[int]], most: int, dice: Dice) -> Iterator[tuple[str, int]]:
    """At most so many answers in turn, each with one of its places, while two have some left."""
    while len(places) > 1 and most > 0:
        turn = sorted(places)
        for _ in range(min(most, len(turn))):
            answer = turn.pop(dice.below(len(turn)))
            yield answer, places[answer].pop(dice.below(len(places[answer])))
        most -= len(places)
        places = {answer: among for answer, among in places.items() if among}


def scene_of(image: LabelledImage) -> Scene:
    """The three boxes of an image, each with its things."""
    boxes: tuple[list[Thing], ...] = ([], [], [])
    for corners, shape, colour in zip(
        image.boxes.tolist(), image.object_ids, image.attribute_ids, strict=True
    ):
        left, top, right, bottom = corners
        place = int(left) // (SQUARE + GAP)
        begin = place * (SQUARE + GAP)
        boxes[place].append(
            Thing(left - begin, top, right - begin, bottom, SHAPES[shape], COLOUR_NAMES[colour])
        )
    first, second, third = (tuple(sorted(box, key=lambda t: -t.bottom)) for box in boxes)
    return first, second, third


def has_towers(scene: Scene) -> bool:
    """Whether squares are stacked in every box, as two of three images have it."""
    return all(thing.shape == "square" and thing.left == 40 for box in scene for thing in box)


def draw_statement(towers: bool, dice: Dice) -> tuple[str, Callable[[Scene], bool]]:
    """A statement, and of which scenes (with towers, or without) it is true."""
    what = dice.choose(("things", "boxes", "boxes", "boxes", "each", *("ends",) * towers))
    if what == "things":
        things = _things(towers, dice)
        said, many, enough = _quantity(things.one, things.many, 4, dice)
        return _there(said, many), lambda scene: enough(sum(map(things.number, scene)))
    if what == "ends":
        colour, end = dice.choose(COLOUR_NAMES), dice.choose(tuple(_ENDS))
        said, many, enough = _quantity(f"{colour} block", f"{colour} blocks", 3, dice)
        return _there(f"{said} as the {end} of a tower", many), lambda scene: enough(
            sum(_ends_in(box, end, colour) for box in scene)
        )
    noun = _noun(towers, dice)
    if what == "each":
        things = _things(towers, dice)
        said, _, enough = _quantity(things.one, things.many, 3, dice)
        return f"each {noun} has {said}", lambda scene: all(map(enough, map(things.number, scene)))
    having, has = _having(towers, dice)
    said, many, enough = _quantity(noun, _plural(noun), 3, dice)
    return _there(f"{said} with {having}", many), lambda scene: enough(sum(map(has, scene)))


def draw_question(towers: bool, dice: Dice) -> tuple[str, Callable[[Scene], int]]:
    """A question for a number, and the number in a scene (with towers, or without)."""
    if dice.choose(("things", "boxes")) == "things":
        things = _things(towers, dice)
        return f"how many {things.many} are there", lambda scene: sum(map(things.number, scene))
    noun = _plural(_noun(towers, dice))
    having, has = _having(towers, dice)
    return f"how many {noun} with {having} are there", lambda scene: sum(map(has, scene))


def _noun(towers: bool, dice: Dice) -> str:
    return "tower" if towers else dice.choose(("box", "grey square"))


def _plural(noun: str) -> str:
    return f"{noun}es" if noun == "box" else f"{noun}s"


def _having(towers: bool, dice: Dice) -> tuple[str, Callable[[Box], bool]]:
    """What boxes have, after ``with``, and which ones have it: one property, or two."""
    properties = [_property(towers, dice) for _ in range(1 + (dice.below(3) == 0))]
    return " and ".join(text for text, _ in properties), lambda box: all(
        holds(box) for _, holds in properties
    )


def _there(said: str, many: bool) -> str:
    return f"there {'are' if many else 'is'} {said}"


def _quantity(
    one: str, many: str, most: int, dice: Dice
) -> tuple[str, bool, Callable[[int], bool]]:
    """So many things; whether that is a plural; and whether a number is so many."""
    number = 1 + dice.below(most)
    counted = dice.choose((_NUMBERS[number - 1], str(number)))
    things = one if number == 1 else many
    match dice.choose(("a", "no", "exactly", "exactly", "only", "", "", "at least", "at least")):
        case "a":
            return f"a {one}", False, lambda n: n > 0
        case "no":
            return f"no {one}", False, lambda n: n == 0
        case "at least":
            return f"at least {counted} {things}", number > 1, lambda n: n >= number
        case exactly:  # which a number alone means to the people of *hidden*
            return f"{exactly} {counted} {things}".strip(), number > 1, lambda n: n == number


def _things(towers: bool, dice: Dice) -> _Phrase:
    colour = dice.choose(("", *COLOUR_NAMES))
    noun = "block" if towers else dice.choose(("item", "object", *SHAPES))
    place = "" if towers else dice.choose(("",) * 4 + tuple(_PLACES))

    def holds(thing: Thing) -> bool:
        return (
            colour in ("", thing.colour)
            and (noun not in SHAPES or thing.shape == noun)
            and (not place or _PLACES[place](thing.touched))
        )

    named = f"{colour} {noun}".strip()
    return _Phrase(f"{named}{place}", f"{named}s{place}", holds)


def _ends_in(box: Box, end: str, colour: str) -> bool:
    return bool(box) and box[_ENDS[end]].colour == colour


def _property(towers: bool, dice: Dice) -> tuple[str, Callable[[Box], bool]]:
    """What a box can have, after ``with``."""
    items = "blocks" if towers else "items"
    colour, other = dice.choose(COLOUR_NAMES), dice.choose(COLOUR_NAMES)
    kinds = ("things", "things", "things", "only", "both", "colours", "share")
    match dice.choose(kinds + ("end", "end", "above") * towers):
        case "only":
            return f"only {colour} {items}", lambda box: {t.colour for t in box} == {colour}
        case "both":
            other = dice.choose([one for one in COLOUR_NAMES if one != colour])
            text = f"only {colour} and {other} {items}"
            return text, lambda box: {t.colour for t in box} == {colour, other}
        case "share":
            number = 1 + dice.below(4)
            part = 1 + dice.below(number)
            whole = f"{number} {items if number > 1 else items[:-1]}"
            text = f"{whole} of which {part} {'is' if part == 1 else 'are'} {colour}"
            return (
                text,
                lambda box: (len(box), sum(t.colour == colour for t in box)) == (number, part),
            )
        case "colours":
            named = dice.choose(tuple(_KINDS_OF_COLOURS))
            number = _KINDS_OF_COLOURS[named]
            return f"{items} of {named}", lambda box: len({t.colour for t in box}) == number
        case "end":
            end, where = dice.choose(tuple(_ENDS)), dice.choose(("at", "as"))
            text = f"a {colour} block {where} the {end}"
            return text, lambda box: _ends_in(box, end, colour)
        case "above":
            word = dice.choose(("on", "over", "above", "below", "under"))
            low, high = (colour, other) if word in ("below", "under") else (other, colour)
            return f"a {colour} block {word} a {other} block", lambda box: any(
                (a.colour, b.colour) == (low, high) for a, b in pairwise(box)
            )
    things = _things(towers, dice)
    said, _, enough = _quantity(things.one, things.many, 4 if towers else 7, dice)
    return said, lambda box: enough(things.number(box))
