import pytest

from lxmert_dist.errors import DataError
from lxmert_dist.ingest.captions import (
    COLOURS,
    SHAPES,
    WORDINGS,
    Facts,
    derive_facts,
    write_captions,
)


@pytest.mark.parametrize(
    ("question", "answer", "colour", "shape"),
    [
        ("what is the blue shape?", "rectangle", "blue", "rectangle"),
        ("what color is the shape?", "teal", "teal", None),
        ("what is the color of the circle?", "gray", "gray", "circle"),
        ("what shape does the image contain?", "triangle", None, "triangle"),
        ("is there a red shape in the image?", "yes", "red", None),
        ("is there a red shape in the image?", "no", None, None),
        ("is there not a red shape?", "no", "red", None),
        ("is no red shape present?", "no", "red", None),
        ("does the image not contain a circle?", "no", None, "circle"),
        ("does the image not contain a circle?", "yes", None, None),
        ("is no circle present?", "yes", None, None),
    ],
)
def test_one_question(question, answer, colour, shape):
    assert derive_facts([(question, answer)]) == Facts(colour, shape)


def test_exclusion_leaves_one_value():
    shapes = [("is there a circle?", "no"), ("is there not a triangle?", "yes")]
    assert derive_facts(shapes) == Facts(None, "rectangle")
    colours = [(f"is a {colour} shape present?", "no") for colour in COLOURS[1:]]
    assert derive_facts(colours) == Facts(COLOURS[0], None)
    assert derive_facts(colours[1:]) == Facts(None, None)


def test_every_image_agrees_with_every_way_of_asking():
    for colour in COLOURS:
        for shape in SHAPES:
            facts = derive_facts(
                [(f"is there a {c} shape?", "yes" if c == colour else "no") for c in COLOURS]
                + [(f"is no {s} present?", "no" if s == shape else "yes") for s in SHAPES]
                + [(f"what color is the {shape}?", colour)]
            )
            assert facts == Facts(colour, shape)


@pytest.mark.parametrize(
    "annotations",
    [
        [("what color is the shape?", "red"), ("is there a red shape?", "no")],
        [("what color is the shape?", "red"), ("is there a blue shape?", "yes")],
        [(f"is there a {shape}?", "no") for shape in SHAPES],
    ],
)
def test_contradictions_are_refused(annotations):
    with pytest.raises(DataError, match="contradict each other"):
        derive_facts(annotations)


def test_captions_say_all_wordings_or_nothing():
    captions = write_captions(Facts("red", "circle"))
    assert len(set(captions)) == len(WORDINGS)
    assert captions[0] == "a red circle"
    assert any("red" in c and "circle" not in c for c in captions)
    assert any("red" not in c and "circle" in c for c in captions)
    assert write_captions(Facts(None, "circle")) == write_captions(Facts("red", None)) == []


def test_a_caption_is_identical_exactly_where_it_is_true():
    everything = [Facts(colour, shape) for colour in COLOURS for shape in SHAPES]
    for mine in everything:
        for other in everything:
            for caption in write_captions(other):
                named_colours = set(caption.split()) & set(COLOURS)
                named_shapes = set(caption.split()) & set(SHAPES)
                is_true = named_colours <= {mine.colour} and named_shapes <= {mine.shape}
                assert (caption in write_captions(mine)) == is_true
