"""Statements about images of NLVR v1, made from what its files say is drawn; true or false.

People's sentences about the training part are few (256 different ones in *hidden*), its images are
many. These statements are for pretraining: they speak of the training images alone, in words and
turns that people's sentences about these have, and say whether they are true. Each is composed of
how many boxes (or towers) there are, with how many things of which colour and shape, and where.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lxmert_dist import keyed
from lxmert_dist.ingest.nlvr1 import COLOURS, GAP, ORDERS, SHAPES, SQUARE
from lxmert_dist.ingest.source import RawSentence
from lxmert_dist.schema import LabelledImage

SOURCE = "statements"
COLOUR_NAMES = tuple(COLOURS.values())
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven")


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


def statements(
    images: Sequence[LabelledImage], *, seed: int, number: int, each: int = 8
) -> Iterator[RawSentence]:
    """Statements, each about as many images of which it is true as of which it is false.

    So nothing can be told from a statement alone.

    Args:
        images: of ``read_nlvr1`` with ``SHAPES`` and ``COLOUR_NAMES``: of a sentence six, in order.
        seed: of the draws.
        number: how many statements are drawn; one that is true or false of too few is left out.
        each: about how many images a statement is; even.

    Returns:
        Sentences of source ``SOURCE`` with the answer ``true`` or ``false``.
    """
    scenes = [scene_of(image) for image in images[::ORDERS]]
    kinds = [has_towers(scene) for scene in scenes]
    for index in range(number):
        dice = Dice(seed, index)
        towers = kinds[dice.below(len(kinds))]
        text, holds = draw_statement(towers, dice)
        places: dict[bool, list[int]] = {True: [], False: []}
        for place, scene in enumerate(scenes):
            if kinds[place] is towers:
                places[holds(scene)].append(place)
        if min(map(len, places.values())) < each // 2:
            continue
        for truth, among in places.items():
            for _ in range(each // 2):
                place = among.pop(dice.below(len(among)))
                image_id = images[place * ORDERS + dice.below(ORDERS)].image_id
                answers = {"true" if truth else "false": 1.0}
                yield RawSentence(image_id, f"{SOURCE}/{index}/{image_id}", SOURCE, text, answers)


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
    what = dice.choose(("things", "boxes", "boxes", "boxes", "each"))
    if what == "things":
        things = _things(towers, dice)
        said, many, enough = _quantity(things.one, things.many, 4, dice)
        return _there(said, many), lambda scene: enough(sum(map(things.number, scene)))
    noun = "tower" if towers else dice.choose(("box", "grey square"))
    if what == "each":
        things = _things(towers, dice)
        said, _, enough = _quantity(things.one, things.many, 3, dice)
        return f"each {noun} has {said}", lambda scene: all(map(enough, map(things.number, scene)))
    properties = [_property(towers, dice) for _ in range(1 + (dice.below(3) == 0))]
    said, many, enough = _quantity(noun, f"{noun}es" if noun == "box" else f"{noun}s", 3, dice)
    having = " and ".join(text for text, _ in properties)
    return _there(f"{said} with {having}", many), lambda scene: enough(
        sum(all(holds(box) for _, holds in properties) for box in scene)
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
    match dice.choose(("a", "no", "exactly", "exactly", "at least")):
        case "a":
            return f"a {one}", False, lambda n: n > 0
        case "no":
            return f"no {one}", False, lambda n: n == 0
        case "exactly":
            return f"exactly {counted} {things}", number > 1, lambda n: n == number
        case _:
            return f"at least {counted} {things}", number > 1, lambda n: n >= number


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


def _property(towers: bool, dice: Dice) -> tuple[str, Callable[[Box], bool]]:
    """What a box can have, after ``with``."""
    items = "blocks" if towers else "items"
    colour, other = dice.choose(COLOUR_NAMES), dice.choose(COLOUR_NAMES)
    kinds = ("things", "things", "only", "colours")
    match dice.choose(kinds + ("end", "end", "above") * towers):
        case "only":
            return f"only {colour} {items}", lambda box: {t.colour for t in box} == {colour}
        case "colours":
            named = dice.choose(tuple(_KINDS_OF_COLOURS))
            number = _KINDS_OF_COLOURS[named]
            return f"{items} of {named}", lambda box: len({t.colour for t in box}) == number
        case "end":
            end = dice.choose(("base", "bottom", "top"))
            place = -1 if end == "top" else 0
            text = f"a {colour} block at the {end}"
            return text, lambda box: bool(box) and box[place].colour == colour
        case "above":
            word = dice.choose(("on", "over", "above", "below", "under"))
            low, high = (colour, other) if word in ("below", "under") else (other, colour)
            return f"a {colour} block {word} a {other} block", lambda box: any(
                (a.colour, b.colour) == (low, high) for a, b in pairwise(box)
            )
    things = _things(towers, dice)
    said, _, enough = _quantity(things.one, things.many, 4 if towers else 7, dice)
    return said, lambda box: enough(things.number(box))
