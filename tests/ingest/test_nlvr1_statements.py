"""Statements and questions about images of NLVR v1: answers are right, words alone tell nothing."""

import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from lxmert_dist.ingest.nlvr1 import SHAPES
from lxmert_dist.ingest.nlvr1_statements import (
    ANSWERS,
    COLOUR_NAMES,
    QUESTIONS,
    STATEMENTS,
    Dice,
    draw_question,
    draw_statement,
    has_towers,
    made_sentences,
    scene_of,
)
from lxmert_dist.schema import LabelledImage

SIDE = 20


def image(name: str, *things: tuple[int, int, int, str, str]) -> LabelledImage:
    """Of (box, left, top, colour, shape)."""
    corners = [
        (150 * box + left, top, 150 * box + left + SIDE, top + SIDE)
        for box, left, top, *_ in things
    ]
    return LabelledImage(
        image_id=name,
        source=b"",
        boxes=np.array(corners, np.float32).reshape(-1, 4),
        object_ids=np.array([SHAPES.index(shape) for *_, shape in things], np.int64),
        attribute_ids=np.array([COLOUR_NAMES.index(c) for *_, c, _ in things], np.int64),
    )


def tower(box: int, *colours: str) -> list[tuple[int, int, int, str, str]]:
    """From the bottom to the top."""
    return [(box, 40, 80 - 21 * n, colour, "square") for n, colour in enumerate(colours)]


TOWERS = image(
    "towers", *tower(0, "blue", "black"), *tower(1, "black"), *tower(2, "yellow", "blue", "blue")
)
SCATTERED = image(
    "scattered",
    (0, 0, 40, "black", "circle"),  # touches the left side
    (0, 50, 50, "blue", "circle"),
    (1, 80, 80, "yellow", "triangle"),  # in a corner
    (1, 30, 80, "yellow", "square"),  # at the bottom
)  # the third box is empty

SAID = """
towers, true: there are exactly two towers with a black block at the top
  boxes 1 black blue end top at 1 two exactly
towers, false: there are exactly two towers with a blue block at the top
  boxes 1 blue blue end top at 1 two exactly
towers, true: there is a tower with a black block over a blue block
  boxes 1 black blue above over 0 one a
towers, false: there is a tower with a blue block over a black block
  boxes 1 blue black above over 0 one a
towers, true: there is a tower with a blue block below a black block
  boxes 1 blue black above below 0 one a
towers, true: there are only two towers with a black block as the top
  boxes 1 black blue end top as 1 two only
towers, true: there is 1 tower with only blue and black blocks
  boxes 1 blue blue both black 0 1 -
towers, true: there is a tower with 3 blocks of which 2 are blue
  boxes 1 blue blue share 2 1 0 one a
towers, false: there is a tower with 1 block of which 1 is yellow
  boxes 1 yellow blue share 0 0 0 one a
towers, true: there is exactly one black block as the base of a tower
  ends black base 0 one exactly
towers, true: there are 2 black blocks as the top of a tower
  ends black top 1 2 -
towers, false: there is no tower with a yellow block under a blue block
  boxes 1 yellow blue above under 0 1 no
towers, true: there is exactly 1 tower with only black blocks
  boxes 1 black blue only 0 1 exactly
towers, false: there are exactly 2 towers with only black blocks
  boxes 1 black blue only 1 2 exactly
towers, true: there is no tower with blocks of all three colors
  boxes 1 black blue colours all~three~colors 0 one no
towers, true: there are at least two towers with blocks of two different colors
  boxes 1 black blue colours two~different~colors 1 two at~least
towers, true: there are at least three blue blocks
  things blue 2 three at~least
towers, false: there are at least 4 blue blocks
  things blue 3 4 at~least
towers, true: each tower has a block
  each - 0 one a
towers, false: each tower has a blue block
  each blue 0 one a
scattered, true: there is a box with only yellow items
  boxes box 1 yellow blue only 0 one a
scattered, false: there is a box with only black items
  boxes box 1 black blue only 0 one a
scattered, true: there are exactly two circles
  things - circle - 1 two exactly
scattered, true: there is exactly one circle touching the edge
  things - circle touching~the~edge 0 one exactly
scattered, false: there are exactly 2 circles touching the wall
  things - circle touching~the~wall 1 2 exactly
scattered, true: there is a blue circle not touching the edge
  things blue circle not~touching~the~edge 0 one a
scattered, true: there is a triangle touching the corner
  things - triangle touching~the~corner 0 one a
scattered, false: there is a square touching the corner
  things - square touching~the~corner 0 one a
scattered, true: there are exactly two yellow items touching the base
  things yellow item touching~the~base 1 two exactly
scattered, false: each box has a object
  each box - object - 0 one a
scattered, true: there is a grey square with exactly two items and a triangle
  boxes grey~square 0 blue blue things - item - 1 two exactly
    blue blue things - triangle - 0 one a 0 one a
towers, 3: how many blue blocks are there
  things blue
towers, 2: how many towers with a black block at the top are there
  boxes 1 black blue end top at
scattered, 1: how many boxes with only yellow items and a item touching the base are there
  boxes box 0 yellow blue only blue blue things - item touching~the~base 1 two a
"""
"""Of whom, the answer, and what is said or asked; below it the draws in their order."""


class Script(Dice):
    """Draws that are as written: a number, or one of the options (``-`` is nothing)."""

    def __init__(self, draws: str) -> None:
        self._draws = draws.split()

    def below(self, options: int) -> int:
        draw = int(self._draws.pop(0))
        assert draw < options
        return draw

    def choose(self, options):
        draw = self._draws.pop(0).replace("-", "").replace("~", " ")
        (chosen,) = {option for option in options if option.strip() == draw}
        return chosen

    def is_over(self) -> bool:
        return not self._draws


def test_scenes_are_what_the_files_say():
    scene = scene_of(TOWERS)
    assert [[thing.colour for thing in box] for box in scene] == [
        ["blue", "black"], ["black"], ["yellow", "blue", "blue"]
    ]  # fmt: skip
    assert has_towers(scene)
    first, second, third = scene_of(SCATTERED)
    assert [thing.touched for thing in second] == [{"right", "bottom"}, {"bottom"}]
    assert {frozenset(thing.touched) for thing in first} == {frozenset(), frozenset({"left"})}
    assert third == ()
    assert not has_towers((first, second, third))


@pytest.mark.parametrize("case", re.split(r"\n(?! )", SAID.strip()))
def test_an_answer_is_right(case):
    (of, answer, text, draws) = re.fullmatch(r"(\w+), (\w+): (.*?)\n(.*)", case, re.S).groups()
    scene, script = scene_of({"towers": TOWERS, "scattered": SCATTERED}[of]), Script(draws)
    draw = draw_question if text.startswith("how many") else draw_statement
    said, answer_of = draw(has_towers(scene), script)
    assert script.is_over()
    assert (said, str(answer_of(scene)).lower()) == (text, answer)


def images(number: int) -> list[LabelledImage]:
    """Six of each scene: towers of one block and more, and things that lie about."""
    made = []
    for n in range(number):
        colours = [COLOUR_NAMES[(n // 3**k) % 3] for k in range(5)]
        parts = [*tower(0, *colours[:2]), *tower(1, colours[2]), *tower(2, *colours[3:])]
        if n % 2:
            shapes = [SHAPES[(n + k) % 3] for k in range(5)]
            parts = [(k % 3, 13 * k, 16 * k, colours[k], shapes[k]) for k in range(5)]
        made += [image(f"{n}-{order}", *parts) for order in range(6)]
    return made


def test_each_is_about_images_of_different_answers():
    known = images(120)
    made = list(made_sentences(known, seed=3, number=100, each=4))
    by_index = defaultdict(list)
    for sentence in made:
        source, index, image_id = sentence.uid.split("/")
        assert (source, image_id) == (sentence.source, sentence.image_id)
        by_index[source, index].append(sentence)
    drawn = Counter(source for source, _ in by_index)  # some have one answer in all images
    assert 30 < drawn[STATEMENTS] < drawn[QUESTIONS] < 100
    for (source, _), group in by_index.items():
        assert len({sentence.text for sentence in group}) == 1
        assert len({sentence.image_id.split("-")[0] for sentence in group}) == len(group) <= 4
        answers = Counter(next(iter(sentence.answers)) for sentence in group)
        assert len(answers) > 1
        assert set(answers) <= set(ANSWERS)
        if source == STATEMENTS:
            assert answers["true"] == answers["false"] == len(group) / 2
    assert made == list(made_sentences(known, seed=3, number=100, each=4))
    assert made != list(made_sentences(known, seed=4, number=100, each=4))


def test_answers_take_turns_while_two_are_left():
    colours = [["black"] * n + ["blue"] * (3 - n) for n in (0, 0, 0, 0, 1, 1, 2, 3)]
    known = [image(f"{n}-0", *tower(0, *c)) for n, c in enumerate(colours) for _ in range(6)]
    asked = defaultdict(Counter)
    for sentence in made_sentences(known, seed=3, number=100, each=6):
        if sentence.text == "how many black blocks are there":
            asked[sentence.uid.split("/")[1]].update(sentence.answers)
    # Four images with none, two with one, one with two and with three: a turn of four, and of two.
    assert all(answers == {"0": 2, "1": 2, "2": 1, "3": 1} for answers in asked.values())
    assert len(asked) > 5


def test_what_is_answered_holds_of_its_images():
    known = images(120)
    by_id = {labelled.image_id: scene_of(labelled) for labelled in known}
    for sentence in made_sentences(known, seed=3, number=100, each=4):
        dice = Dice(3, int(sentence.uid.split("/")[1]))
        towers = has_towers(scene_of(known[6 * dice.below(120)]))
        draw = draw_statement if sentence.source == STATEMENTS else draw_question
        text, answer_of = draw(towers, dice)
        scene = by_id[sentence.image_id]
        assert (text, has_towers(scene)) == (sentence.text, towers)
        assert sentence.answers == {str(answer_of(scene)).lower(): 1.0}
